"""Trains the micro ViT on scenes: `python -m benchmarks.micro_vit.train --device cuda --out DIR`.

Draws all scenes once into memory, keeps them on the device and writes weights, config, heads and a
model card whose figures are measured on fresh scenes with the files just written.
"""

import argparse
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.micro_vit.data import LabelledScenes, draw_labelled
from benchmarks.micro_vit.measure import Accuracies, measure, write_card
from saev.backbones.micro.micro_vit import (
    PATCH_ATTRIBUTES,
    AttributeHeads,
    build_vit,
    load_micro,
    micro_config,
    normalise,
    save_micro,
)

EVAL_SEED_OFFSET = 1_000_003  # evaluation draws from the set of another seed


class MicroTask(nn.Module):
    """The model with all its heads and the loss over them."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.config = config
        self.vit = build_vit(config)
        self.heads = AttributeHeads(config["model"]["embed_dim"], config["attributes"])

    def forward(self, images: Tensor, values: Tensor, patches: Tensor) -> Tensor:
        """Sum of the cross-entropies of all heads, each a mean over its predictions."""
        tokens_btd = self.vit.forward_features(normalise(images, self.config))
        image_logits, patch_logits = self.heads(tokens_btd)
        image_logits["shape"] = self.vit.forward_head(tokens_btd)
        loss = torch.zeros((), device=images.device)
        for column, name in enumerate(self.config["attributes"]):
            loss = loss + cross_entropy(image_logits[name].float(), values[:, column].long())
        for row, name in enumerate(PATCH_ATTRIBUTES):
            logits_bcp = patch_logits[name].float().transpose(1, 2)
            loss = loss + cross_entropy(logits_bcp, patches[:, row].long())
        return loss


def warmup_cosine(step: int, n_steps: int, n_warmup: int) -> float:
    """Factor on the learning rate: linear from 0 to 1, then half a cosine down to 0."""
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


def make_optimizer(task: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW that decays matrices only: biases, norms, the class token and positions stay free."""
    decayed = [p for n, p in task.named_parameters() if p.ndim > 1 and "_embed" not in n]
    chosen = {id(p) for p in decayed}
    free = [p for p in task.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)


def train(
    task: MicroTask,
    scenes: LabelledScenes,
    args: argparse.Namespace,
    say: Callable[[str], None],
) -> None:
    """Trains `task` in place; `say` gets a line per epoch."""
    device = torch.device(args.device)
    scenes = LabelledScenes(*(part.to(device) for part in scenes))
    n_scenes = len(scenes.images)
    steps_per_epoch = max(1, n_scenes // args.batch_size)
    n_steps = args.epochs * steps_per_epoch
    n_warmup = max(1, n_steps // 20)
    optimizer = make_optimizer(task, args.lr, args.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, n_steps, n_warmup)
    )
    generator = torch.Generator().manual_seed(args.seed)
    task.train()
    for epoch in range(args.epochs):
        started = time.perf_counter()
        order = torch.randperm(n_scenes, generator=generator).to(device)
        total = torch.zeros((), device=device)
        for batch in order[: steps_per_epoch * args.batch_size].chunk(steps_per_epoch):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = task(*(part[batch] for part in scenes))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(task.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        mean_loss = total.item() / steps_per_epoch
        seconds = time.perf_counter() - started
        say(
            f"epoch {epoch + 1:3d}/{args.epochs}  loss {mean_loss:7.4f}  "
            f"{n_scenes / seconds:8,.0f} images/s"
        )
    task.eval()


def hardware_name(device: str) -> str:
    """The device the training ran on, as torch or the operating system names it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def run(args: argparse.Namespace, say: Callable[[str], None]) -> Accuracies:
    """Draw, train, write, measure; returns the accuracies of what was written."""
    from datamodules.scenes import attribute_table

    config = micro_config(attribute_table(), seed=args.seed, n_scenes=args.n_train)
    size, patch_size = config["model"]["img_size"], config["model"]["patch_size"]
    started = time.perf_counter()
    scenes = draw_labelled(args.seed, args.n_train, size, patch_size, args.n_workers)
    eval_seed = args.seed + EVAL_SEED_OFFSET
    fresh = draw_labelled(eval_seed, args.n_eval, size, patch_size, args.n_workers)
    say(f"drew {args.n_train + args.n_eval:,} scenes in {time.perf_counter() - started:.1f} s")

    torch.manual_seed(args.seed)
    task = MicroTask(config).to(args.device)
    started = time.perf_counter()
    train(task, scenes, args, say)
    say(f"trained in {time.perf_counter() - started:.1f} s")

    save_micro(args.out, config, task.vit, task.heads)
    config, vit, heads = load_micro(args.out)
    accuracies = measure(vit.to(args.device), heads.to(args.device), config, fresh)
    write_card(
        args.out,
        config,
        accuracies,
        command=args.command,
        hardware=hardware_name(args.device),
        training={
            "seed": args.seed,
            "scenes": f"{args.n_train:,}, drawn once; no augmentation",
            "epochs": args.epochs,
            "optimizer": f"AdamW, lr {args.lr:g}, weight decay {args.weight_decay:g}, "
            f"batch {args.batch_size}, 5 % warm-up, cosine to 0",
            "precision": "bfloat16 autocast" if "cuda" in args.device else "float32",
        },
        n_eval=args.n_eval,
        eval_seed=eval_seed,
    )
    for title, table in accuracies._asdict().items():
        say(f"{title:12s} " + "  ".join(f"{name} {value:.3f}" for name, value in table.items()))
    return accuracies


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Command line to settings; the command itself is kept for the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-train", type=int, default=120_000, help="scenes to train on")
    parser.add_argument("--n-eval", type=int, default=2_000, help="fresh scenes to measure on")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--n-workers", type=int, default=os.cpu_count() or 1, help="0 draws in this process"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    args = parser.parse_args(argv)
    for name in ("n_train", "n_eval", "epochs", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, must be 1 or more")
    if args.n_train < args.batch_size:
        parser.error(f"--n-train is {args.n_train}, must be at least --batch-size")
    shown = ["DIR" if arg == str(args.out) else arg for arg in argv]  # not anyone's folders
    args.command = shlex.join(["python", "-m", "benchmarks.micro_vit.train", *shown])
    return args


if __name__ == "__main__":
    console = Console(highlight=False)
    run(parse_args(sys.argv[1:]), console.print)
