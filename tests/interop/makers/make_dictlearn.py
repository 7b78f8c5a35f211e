"""What dictionary_learning writes: ``python make_dictlearn.py OUT``, in an environment that has it."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from cases import D, K, M, Writer, few_positive, fill, fill_whole, inputs, run, whole_inputs
from dictionary_learning import dictionary, training
from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k
from dictionary_learning.trainers import standard as standard_trainers
from dictionary_learning.trainers import top_k as top_k_trainers
from dictionary_learning.trainers.trainer import SAETrainer
from dictionary_learning.utils import load_dictionary
from torch import Tensor

PLACE = {"layer": 5, "lm_name": "open_clip:ViT-B-16", "submodule_name": "resid_post_layer_5"}


def trainer(kind: type[SAETrainer], **settings: Any) -> SAETrainer:
    """A trainer, which makes its dictionary and knows the config that belongs to it."""
    return kind(
        steps=10_000, activation_dim=D, dict_size=M, seed=0, device="cpu", **PLACE, **settings
    )


class Cases:
    """Fills a trainer's dictionary and saves it as ``trainSAE`` does."""

    def __init__(self, out: Path) -> None:
        self.writer = Writer(out, "dictionary_learning", "dictionary-learning")

    def keep(
        self,
        name: str,
        made: SAETrainer,
        note: str,
        x: Tensor | None = None,
        more_config: dict[str, Any] | None = None,
        **tensors: Tensor,
    ) -> Path:
        """One case; z and x_hat are those of the dictionary itself."""
        saved = self.writer.saved(name)
        torch.save(made.ae.state_dict(), saved / "ae.pt")
        config = {"trainer": {**made.config, **(more_config or {})}}
        (saved / "config.json").write_text(json.dumps(config, indent=4))
        x = inputs() if x is None else x
        z = made.ae.encode(x)
        kind = type(made.ae).__name__
        self.writer.write(name, kind, note, x, z, made.ae.decode(z), **tensors)
        return saved


def standard(out: Path) -> None:
    """ReLU with a bias that is taken from the input and added to the output."""
    cases = Cases(out)
    made = trainer(standard_trainers.StandardTrainer)
    fill(made.ae, "dictlearn_autoencoder")
    made.ae.decoder.weight /= made.ae.decoder.weight.norm(dim=0)
    cases.keep(
        "dictlearn_autoencoder", made, "plain ReLU, atoms of norm 1 as its trainer keeps them"
    )
    made = trainer(standard_trainers.StandardTrainerAprilUpdate)
    fill(made.ae, "dictlearn_autoencoder_unequal")
    note = (
        "atoms of unequal norms; load_dictionary folds the norms into the encoder, which gives the"
        " codes z_normalised = z · ‖atom‖ and the same x_hat"
    )
    again = dictionary.AutoEncoder(D, M)
    again.load_state_dict(made.ae.state_dict())
    again.normalize_decoder()
    z_normalised = again.encode(inputs())
    saved = cases.keep("dictlearn_autoencoder_unequal", made, note, z_normalised=z_normalised)
    assert torch.allclose(load_dictionary(str(saved), "cpu")[0].encode(inputs()), z_normalised)


def new(out: Path) -> None:
    """No bias is taken from the input; the config that its trainer writes names another class."""
    cases = Cases(out)
    made = trainer(
        standard_trainers.StandardTrainerAprilUpdate, dict_class=dictionary.AutoEncoderNew
    )
    fill(made.ae, "dictlearn_new")
    named = {"dict_class": "AutoEncoderNew"}
    note = "decoder.bias, and nothing taken from the input; atoms of unequal norms, z not scaled"
    cases.keep("dictlearn_new", made, note, more_config=named)
    note = (
        "the same file with the config its trainer really writes, whose dict_class is AutoEncoder"
    )
    cases.keep("dictlearn_new_named_autoencoder", made, note)


def gated(out: Path) -> None:
    """Gate and magnitude."""
    made = trainer(gdm.GatedSAETrainer)
    fill(made.ae, "dictlearn_gated")
    Cases(out).keep("dictlearn_gated", made, "gate_bias, mag_bias, r_mag; atoms of unequal norms")


def topk(out: Path) -> None:
    """k of each vector, whatever threshold is stored."""
    cases = Cases(out)
    made = trainer(top_k_trainers.TopKTrainer, k=K)
    fill(made.ae, "dictlearn_topk")
    made.ae.threshold.fill_(1.5)
    note = "a threshold of 1.5 is stored and not used: k of each vector at inference"
    cases.keep("dictlearn_topk", made, note)
    fill(made.ae, "dictlearn_topk_few_positive")
    made.ae.threshold.fill_(-1.0)
    made.ae.encoder.bias -= 5
    few_positive(made.ae.encoder(inputs() - made.ae.b_dec))
    note = "most pre-activations are negative, the threshold was never set"
    cases.keep("dictlearn_topk_few_positive", made, note)


def batchtopk(out: Path) -> None:
    """Every value above one threshold, on average k of them."""
    cases = Cases(out)
    kind = batch_top_k.BatchTopKTrainer
    for name, threshold, note in [
        ("dictlearn_batchtopk", 1.5, "what is above one threshold passes, however many"),
        ("dictlearn_batchtopk_never_set", -1.0, "threshold −1, never set: plain ReLU"),
    ]:
        made = trainer(kind, k=K)
        fill(made.ae, name)
        made.ae.threshold.fill_(threshold)
        cases.keep(name, made, note)
    made = trainer(kind, k=K)
    fill_whole(made.ae, "dictlearn_batchtopk_equal")
    made.ae.threshold.fill_(3.0)
    assert (made.ae.encoder(whole_inputs() - made.ae.b_dec) == 3).any()
    note = "whole numbers: some values equal the threshold, and do not pass"
    cases.keep("dictlearn_batchtopk_equal", made, note, whole_inputs())


def matryoshka(out: Path) -> None:
    """Groups of latents, all of them in use."""
    cases = Cases(out)
    for name, threshold, note in [
        (
            "dictlearn_matryoshka",
            1.5,
            "groups of 4, 4 and 8; W_enc (d, m) where others have (m, d)",
        ),
        ("dictlearn_matryoshka_never_set", -1.0, "threshold −1, never set: plain ReLU"),
    ]:
        kind = matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer
        made = trainer(kind, k=K, group_fractions=[0.25, 0.25, 0.5])
        fill(made.ae, name)
        made.ae.threshold.fill_(threshold)
        cases.keep(name, made, note)


def jump(out: Path) -> None:
    """One threshold for each latent; b_dec is taken from the input only where a caller says so."""
    cases = Cases(out)
    made = trainer(jumprelu.JumpReluTrainer)
    fill(made.ae, "dictlearn_jumprelu")
    made.ae.threshold.abs_()
    cases.keep("dictlearn_jumprelu", made, "b_dec is added to the output, not taken from the input")
    made.ae.apply_b_dec_to_input = True
    note = (
        "apply_b_dec_to_input set on the object before encoding: the library saves it nowhere,"
        " trainer.apply_b_dec_to_input in config.json was added by hand"
    )
    added = {"apply_b_dec_to_input": True}
    cases.keep("dictlearn_jumprelu_b_dec", made, note, more_config=added)
    made.ae.apply_b_dec_to_input = False
    fill(made.ae, "dictlearn_jumprelu_negative")
    note = "half of the thresholds are below 0: values below 0 are cut off all the same"
    cases.keep("dictlearn_jumprelu_negative", made, note)


def trained(out: Path) -> None:
    """Twenty steps of the library's own training on scaled inputs, which it folds when it saves."""
    cases = Cases(out)
    for name, added in [("dictlearn_norm_factor", True), ("dictlearn_trained", False)]:
        saved = cases.writer.saved(name)
        settings = {"k": K, "threshold_start_step": 0, "threshold_beta": 0.5, "warmup_steps": 1}
        settings |= {"dict_class": batch_top_k.BatchTopKSAE, "lr": 0.01, "seed": 0, **PLACE}
        settings |= {"steps": 20, "activation_dim": D, "dict_size": M, "device": "cpu"}
        batches = [inputs(256) for _ in range(20)]
        with torch.enable_grad():
            training.trainSAE(
                [batch.clone() for batch in batches],
                [{"trainer": batch_top_k.BatchTopKTrainer, **settings}],
                steps=20,
                save_dir=str(saved),
                normalize_activations=True,
                device="cpu",
            )
        for one in list((saved / "trainer_0").iterdir()):
            shutil.move(one, saved / one.name)
        (saved / "trainer_0").rmdir()
        config = json.loads((saved / "config.json").read_text())
        assert "norm_factor" not in config["trainer"]
        note = "20 steps of trainSAE with normalize_activations: config.json has no norm_factor"
        if added:
            config["trainer"]["norm_factor"] = training.get_norm_factor(batches, steps=20)
            (saved / "config.json").write_text(json.dumps(config, indent=4))
            note = "the same with norm_factor added by hand: biases and threshold hold it already"
        again = load_dictionary(str(saved), "cpu")[0]
        z = again.encode(inputs())
        cases.writer.write(name, "BatchTopKSAE", note, inputs(), z, again.decode(z))


if __name__ == "__main__":
    run([standard, new, gated, topk, batchtopk, matryoshka, jump, trained])
