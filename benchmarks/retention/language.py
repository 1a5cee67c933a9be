"""What a language model forgets on other text: ``python -m benchmarks.retention.language --network gpt2 --out DIR``.

A causal language model learns Shakespeare in a plain loop; perplexity on held-out WikiText-2 says what it kept, that on
held-out Shakespeare what it learned. A run that is finished is not repeated. Settings are given, not chosen: this shows
what a method at its setting does and costs, not which method is best.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from rich.table import Table
from torch import Tensor, nn

import forgetting
from benchmarks.retention.study import console
from forgetting import fisher
from forgetting.curvature import Anchored
from forgetting.protocol.measure import largest_resident_set
from forgetting.tasks import decoders
from forgetting.tasks.packaged import SMOLLM2, packaged
from forgetting.tasks.texts import read

METHODS = ("finetune", "l2sp", "ewc", "kl", "wise-ft", "freeze")
STRENGTHS = {"l2sp": "0.1", "ewc": "1000", "kl": "1", "wise-ft": "0.5", "freeze": "10"}


def loaded(network: str) -> tuple[nn.Module, Any]:
    """A causal language model in float32 and eval mode, and its tokenizer: a GGUF file, a folder or a hub name."""
    return decoders.causal(network), decoders.tokenizer(network)


def windows(tokenizer: Any, text: str, length: int, tokens: int) -> Tensor:
    """The first so many tokens of a text, int64 [windows, length]; what is left over is dropped."""
    try:
        return decoders.windows(tokenizer, text, length, tokens)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def negative_log_likelihood(model: nn.Module, tokens: Tensor) -> Tensor:
    """The mean over all tokens but each window's first."""
    logits = model(input_ids=tokens).logits[:, :-1].float()
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def perplexity(model: nn.Module, tokens: Tensor) -> float:
    """exp of the mean negative log likelihood, every window alone."""
    model.eval()
    return math.exp(sum(negative_log_likelihood(model, window[None]).item() for window in tokens) / len(tokens))


@torch.no_grad()
def divergence(kept: forgetting.KL, model: nn.Module, tokens: Tensor) -> float:
    """The mean over positions of KL(as it was ‖ as it is), in nats, on texts of the new task."""
    return sum(float(kept.penalty(model, {"input_ids": window[None]})) for window in tokens) / len(tokens)


def figures(model: nn.Module, kept: forgetting.KL, tests: dict[str, Tensor]) -> dict[str, float]:
    """Both perplexities, and the divergence on the first windows of the target."""
    found = {name: perplexity(model, part) for name, part in tests.items()}
    return {**found, "divergence": divergence(kept, model, tests["target"][:8])}


@contextlib.contextmanager
def held(method: str, model: nn.Module, importance: Anchored | None, strength: float,
         inputs: Tensor) -> Iterator[forgetting.regularizers.Regularizer | None]:
    """The method's hold on the model while it learns: a penalty, frozen parameters, or an average at the end."""
    if method == "freeze":
        with forgetting.freeze(model, depth=int(strength), inputs=inputs):
            yield None
    elif method == "wise-ft":
        before = {name: value.detach().clone() for name, value in model.state_dict().items()}
        yield None
        with torch.no_grad():
            for name, value in model.state_dict().items():
                value.lerp_(before[name], 1 - strength)
    else:
        made = {"l2sp": forgetting.L2SP, "ewc": forgetting.EWC, "kl": forgetting.KL}
        penalty = made[method](strength) if method in made else None
        if penalty is not None:
            penalty.consolidate(model, **({"curvature": importance} if method == "ewc" else {}))
        yield penalty


def learn(model: nn.Module, penalty: Any, tokens: Tensor, *, steps: int, batch: int, rate: float, seed: int) -> None:
    """AdamW at one rate on drawn windows: the plain loop that a user has."""
    drawn = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=rate, weight_decay=0)
    for _ in range(steps):
        some = tokens[torch.randint(len(tokens), (batch,), generator=drawn)]
        loss = negative_log_likelihood(model, some)
        if penalty is not None:
            loss = loss + penalty.penalty(model, {"input_ids": some})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def written(file: Path, found: dict[str, Any]) -> None:
    """A run's figures, in one piece."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


@click.command()
@click.option("--network", help=f"a GGUF file, a folder or a hub name  [default: {SMOLLM2}, packaged or from the hub]")
@click.option("--methods", default="finetune,ewc", show_default=True, help=", ".join(METHODS))
@click.option("--strength", "strengths", multiple=True, metavar="METHOD=NUMBER",
              help="λ; wise-ft's amount; freeze's depth")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=40, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=2, show_default=True, help="windows a step")
@click.option("--length", type=click.IntRange(min=2), default=256, show_default=True, help="tokens a window")
@click.option("--rate", type=float, default=3e-5, show_default=True)
@click.option("--tokens", type=click.IntRange(min=2), default=100_000, show_default=True, help="that EWC consolidates")
@click.option("--tested", type=click.IntRange(min=2), default=10_000, show_default=True, help="tokens of each test")
@click.option("--device", default="cpu", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--json", "together", type=click.Path(path_type=Path, dir_okay=False), help="all these runs in one file")
def main(network: str | None, methods: str, strengths: tuple[str, ...], seeds: int, out: Path, tokens: int, tested: int,
         length: int, device: str, together: Path | None, **training: Any) -> None:
    """Let a language model learn Shakespeare by each method, and say what is left of its WikiText."""
    listed = [name.strip() for name in methods.split(",")]
    given = {**STRENGTHS, **dict(each.split("=", 1) for each in strengths if "=" in each)}
    if strange := [name for name in listed if name not in METHODS]:
        raise click.BadParameter(f"--methods {', '.join(strange)}: known are {', '.join(METHODS)}")
    network = network or str(packaged(SMOLLM2) or SMOLLM2)
    model, tokenizer = loaded(network)
    model.to(device)
    learned, tests = texts(tokenizer, length, tested, device)
    out.mkdir(parents=True, exist_ok=True)
    importance, took = None, 0.0
    if "ewc" in listed:
        importance, took = consolidated(model, tokenizer, length, tokens, device, out / f"fisher-{tokens}.safetensors")
    before, original, runs = {name: value.clone() for name, value in model.state_dict().items()}, None, []
    for seed, method in itertools.product(range(seeds), listed):
        strength = 0.0 if method == "finetune" else float(given[method])
        settings = {"method": method, "strength": strength, "network": Path(network).name, "length": length,
                    "consolidated": tokens if method == "ewc" else 0, "tested": tested, "seed": seed, **training}
        file = out / f"{method}-{strength:g}-{seed}.json"
        run = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if run is None:
            model.load_state_dict(before)
            original = original or figures(model, forgetting.KL(0.0), tests)
            run = one(model, method, importance, strength, seed, learned, tests, training)
            run = {"settings": settings, "before": original, **run, "seconds_consolidation": took * (method == "ewc")}
            written(file, run)
        elif run["settings"] != settings:
            raise click.ClickException(f"{file} was made with other settings; take another --out")
        runs.append(run)
    if together is not None:
        written(together, {"runs": runs})
    show(runs)


def texts(tokenizer: Any, length: int, tested: int, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Shakespeare to learn, and what is tested: WikiText-2's test part, and the last tenth of Shakespeare."""
    play = read("tinyshakespeare/input.txt")
    cut = int(0.9 * len(play))
    tests = {"source": windows(tokenizer, read("wikitext2/test.txt"), length, tested).to(device),
             "target": windows(tokenizer, play[cut:], length, tested).to(device)}
    return windows(tokenizer, play[:cut], length, 10**6).to(device), tests


def show(runs: list[dict[str, Any]]) -> None:
    """One row a run, the model as it was first."""
    table = Table("method", "seed", "WikiText", "Shakespeare", "KL from before", "seconds", "peak GB", box=None)
    rows = [("(as it was)", "", runs[0]["before"], "", "")]
    rows += [(run["settings"]["method"], str(run["settings"]["seed"]), run["after"], f"{run['seconds']:.0f}",
              f"{run['peak_bytes'] / 1e9:.1f}") for run in runs]
    for method, seed, found, *costs in rows:
        shown = (f"{found['source']:.2f}", f"{found['target']:.2f}", f"{found['divergence']:.3f}")
        table.add_row(method, seed, *shown, *costs)
    console.print("perplexities on held-out text; KL in nats a token of held-out Shakespeare", table, sep="\n")


def consolidated(model: nn.Module, tokenizer: Any, length: int, tokens: int, device: str,
                 file: Path) -> tuple[Anchored, float]:
    """The Fisher with sampled labels over WikiText-2's validation part, from its file where there is one; seconds."""
    took = file.with_suffix(".seconds")
    if not file.exists():
        began = time.perf_counter()
        cut = windows(tokenizer, read("wikitext2/valid.txt"), length, tokens)
        batches = [{"input_ids": each.to(device), "labels": each.to(device)} for each in cut.split(4)]
        found = fisher.anchored(model, batches, labels="sampled", likelihood=fisher.CausalLanguageModel())
        took.write_text(str(time.perf_counter() - began))
        found.save(file)
    return Anchored.load(file), float(took.read_text()) if took.exists() else math.nan


def one(model: nn.Module, method: str, importance: Anchored | None, strength: float, seed: int, learned: Tensor,
        tests: dict[str, Tensor], training: dict[str, Any]) -> dict[str, Any]:
    """One run: figures afterwards, seconds of training, peak memory of the process or the GPU."""
    kept = forgetting.KL(1.0)
    kept.consolidate(model)
    began = time.perf_counter()
    with held(method, model, importance, strength, learned[:1]) as penalty:
        learn(model, penalty, learned, seed=seed, **training)
    found: dict[str, Any] = {"seconds": time.perf_counter() - began, "after": figures(model, kept, tests)}
    on_gpu = learned.device.type == "cuda"
    found["peak_bytes"] = torch.cuda.max_memory_allocated() if on_gpu else largest_resident_set()
    found["versions"] = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return found


if __name__ == "__main__":
    main()
