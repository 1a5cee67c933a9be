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
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
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
def held(method: str, model: nn.Module, importance: Path | None, strength: float,
         inputs: Tensor) -> Iterator[forgetting.regularizers.Regularizer | None]:
    """The method's hold on the model while it learns: a penalty, frozen parameters, or an average at the end."""
    if method == "freeze":
        with forgetting.freeze(model, depth=int(strength), inputs=inputs):
            yield None
    elif method == "wise-ft":
        before = {name: value.detach().clone() for name, value in model.state_dict().items()}
        yield None
        model.load_state_dict(forgetting.interpolate(before, model.state_dict(), strength))
    else:
        made = {"l2sp": forgetting.L2SP, "ewc": forgetting.EWC, "kl": forgetting.KL}
        penalty = made[method](strength) if method in made else None
        if penalty is not None:
            penalty.consolidate(model, **({"curvature": Anchored.load(importance)} if method == "ewc" else {}))
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
    about = {"network": Path(network).name, "length": length, "tested": tested, **training}
    common: dict[str, Any] = {"network": network, "length": length, "tested": tested, "device": device}
    out.mkdir(parents=True, exist_ok=True)
    importance, original, runs = out / f"fisher-{tokens}.safetensors", None, []
    for seed, method in itertools.product(range(seeds), listed):
        strength = 0.0 if method == "finetune" else float(given[method])
        settings = {**about, "method": method, "strength": strength, "seed": seed,
                    "consolidated": tokens if method == "ewc" else 0}
        file = out / f"{method}-{strength:g}-{seed}.json"
        run = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if run is None:
            original = original or alone(first, **common)
            took = consolidated(importance, tokens, network, length, device) if method == "ewc" else None
            run = alone(one, method=method, importance=importance, strength=strength, seed=seed, **common, **training)
            run = {"settings": settings, "before": original, **run, "consolidation": took}
            written(file, run)
        elif run["settings"] != settings:
            raise click.ClickException(f"{file} was made with other settings; take another --out")
        runs.append(run)
    if together is not None:
        written(together, {"runs": runs})
    show(runs)


def alone(work: Callable[..., Any], **given: Any) -> Any:
    """What a function answers in a process of its own, so that the peak of memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(work, **given).result()


def peak(device: str) -> int:
    """Bytes that this process held when it held most: on the GPU, or in all."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else largest_resident_set()


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
    took = next((run["consolidation"] for run in runs if run["consolidation"] is not None), None)
    if took is not None:
        console.print(f"EWC's Fisher: {took['seconds']:.0f} s, peak {took['peak_bytes'] / 1e9:.1f} GB")


def first(network: str, length: int, tested: int, device: str) -> dict[str, float]:
    """The figures of the model as it is."""
    model, tokenizer = loaded(network)
    return figures(model.to(device), forgetting.KL(0.0), texts(tokenizer, length, tested, device)[1])


def consolidated(file: Path, tokens: int, network: str, length: int, device: str) -> dict[str, float]:
    """Seconds and peak memory of the Fisher, which is made where its file is missing."""
    costs = file.with_suffix(".costs")
    if not (file.exists() and costs.exists()):
        found = alone(importance_of, file=file, tokens=tokens, network=network, length=length, device=device)
        written(costs, found)
    return json.loads(costs.read_text(encoding="utf-8"))


def importance_of(file: Path, tokens: int, network: str, length: int, device: str) -> dict[str, float]:
    """The Fisher with sampled labels over WikiText-2's validation part, into its file."""
    model, tokenizer = loaded(network)
    model.to(device)
    cut = windows(tokenizer, read("wikitext2/valid.txt"), length, tokens)
    batches = [{"input_ids": each.to(device), "labels": each.to(device)} for each in cut.split(4)]
    began = time.perf_counter()
    fisher.anchored(model, batches, labels="sampled", likelihood=fisher.CausalLanguageModel()).save(file)
    return {"seconds": time.perf_counter() - began, "peak_bytes": peak(device)}


def one(network: str, method: str, importance: Path, strength: float, seed: int, length: int, tested: int, device: str,
        **training: Any) -> dict[str, Any]:
    """One run: seconds and peak memory of loading and training, and the figures afterwards."""
    model, tokenizer = loaded(network)
    model.to(device)
    learned, tests = texts(tokenizer, length, tested, device)
    began = time.perf_counter()
    with held(method, model, importance, strength, learned[:1]) as penalty:
        learn(model, penalty, learned, seed=seed, **training)
    found: dict[str, Any] = {"seconds": time.perf_counter() - began, "peak_bytes": peak(device)}
    del penalty
    kept = forgetting.KL(1.0)
    kept.consolidate(loaded(network)[0].to(device))  # the model as it was, which training did without
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    return {**found, "after": figures(model, kept, tests), "versions": versions}


if __name__ == "__main__":
    main()
