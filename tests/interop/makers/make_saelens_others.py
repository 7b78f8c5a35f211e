"""What SAELens wrote before version 6, and what is no SAE: ``python make_saelens_others.py OUT``."""

import json
from pathlib import Path

from cases import D, K, M, fill, inputs, run
from make_saelens import Cases, made
from sae_lens import SAE
from safetensors.torch import save_file


def legacy(out: Path) -> None:
    """A folder as versions before 6 left it, with the flat config of its runner."""
    cases = Cases(out)
    model = made("TopKSAE", k=K)
    fill(model, "saelens_legacy_topk")
    saved = cases.writer.saved("saelens_legacy_topk")
    save_file(model.state_dict(), saved / "sae_weights.safetensors")
    config = {
        "d_in": D,
        "d_sae": M,
        "dtype": "torch.float32",
        "device": "cpu",
        "model_name": "open_clip:ViT-B-16",
        "hook_name": "blocks.5.hook_resid_post",
        "hook_layer": 5,
        "hook_head_index": None,
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "normalize_activations": "layer_norm",
        "finetuning_scaling_factor": False,
        "sae_lens_training_version": "3.20.0",
    }
    (saved / "cfg.json").write_text(json.dumps(config))
    again = SAE.load_from_disk(saved)
    z = again.encode(inputs())
    note = "cfg.json of a version before 6: no architecture, k in activation_fn_kwargs, flat names"
    x_hat = again.decode(z)
    cases.writer.write("saelens_legacy_topk", again.cfg.architecture(), note, inputs(), z, x_hat)


def refused(out: Path) -> None:
    """What is no dictionary of a single place."""
    cases = Cases(out)
    for kind in ("Transcoder", "SkipTranscoder", "JumpReLUTranscoder", "JumpReLUSkipTranscoder"):
        model = made(kind, d_out=6, apply_b_dec_to_input=False)
        name = "saelens_" + model.cfg.architecture()
        fill(model, name)
        reason = "a transcoder: it reads one place and writes another"
        cases.keep(
            name, model, "d_out differs from d_in", refuse=reason, whole_model="Skip" in kind
        )
    model = made("TemporalSAE", n_heads=1, bottleneck_factor=2, kval_topk=K)
    fill(model, "saelens_temporal")
    cases.keep(
        "saelens_temporal",
        model,
        "x is one sequence of n tokens; z holds the novel codes, x_hat the whole reconstruction",
        shape=(1, -1, D),
        refuse="attention across tokens: a code depends on other places",
        whole_model=True,
    )
    model = made("MatchingPursuitSAE", max_iterations=K)
    fill(model, "saelens_matching_pursuit")
    model.W_dec /= model.W_dec.norm(dim=-1, keepdim=True)
    reason = "matching pursuit: codes come from a loop, not from an encoder"
    cases.keep("saelens_matching_pursuit", model, "no W_enc in the file", refuse=reason)


if __name__ == "__main__":
    run([legacy, refused])
