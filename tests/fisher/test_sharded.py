"""FSDP2: shards in, shards out; the model is left as found, and trains on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from forgetting import fisher
from forgetting.curvature import Anchored

pytest.importorskip("torch.distributed.fsdp", reason="this torch has no torch.distributed")
DATA_SIZES = (4, 1, 5, 3)


class Tied(nn.Module):
    """An embedding that is the head too, inner modules sharded on their own, a norm, a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.body = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.LayerNorm(7), nn.Dropout(0.5), nn.Linear(7, 4))
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embed(tokens).mean(1)))


def model() -> nn.Module:
    torch.manual_seed(1)
    return Tied().double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [(torch.randint(6, (size, 3), generator=generator), torch.randint(6, (size,), generator=generator))
            for size in DATA_SIZES]


def sharded() -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    made = model()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(made.body, mesh=mesh)
    return fully_shard(made, mesh=mesh)


def whole(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().full_tensor() for name, value in values.items()}


def estimated(rank: int) -> tuple[dict[str, Tensor], list[bool], int, dict[str, str]]:
    from torch.distributed import group

    made = sharded()
    found = fisher.diagonal(made, batches()[rank::2], process_group=group.WORLD)
    live = dict(made.named_parameters())
    alike = [value.placements == live[name].placements and value.device_mesh == live[name].device_mesh
             and value.to_local().shape == live[name].to_local().shape for name, value in found.items()]
    return whole(found), alike, found.examples, found.routes


def test_the_result_is_that_of_one_process_in_the_shards_of_the_weights(processes):
    alone = fisher.diagonal(model(), batches())
    for values, alike, examples, routes in processes.same(estimated):
        assert all(alike)
        assert (examples, routes) == (alone.examples, alone.routes)
        assert list(values) == list(alone)
        for name, value in alone.items():
            torch.testing.assert_close(values[name], value, rtol=1e-12, atol=1e-18)


def trained(rank: int, kind: str) -> list[Tensor]:
    """The weights after a step, an estimate (or its failure) and another step."""
    from torch.distributed import group

    made = sharded()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for step, batch in enumerate(batches()[:2]):
        torch.manual_seed(step)  # of the dropout
        nn.functional.cross_entropy(made(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0 and kind == "estimate":
            fisher.diagonal(made, batches(), process_group=group.WORLD)
        if step == 0 and kind == "forward only":
            made(batch[0])  # leaves the root whole
            found = fisher.diagonal(made, batches(), process_group=group.WORLD)
            assert all(hasattr(value, "full_tensor") for value in found.values())
        if step == 0 and kind == "failure":
            with pytest.raises(ValueError, match="labels outside"):
                fisher.diagonal(made, [(inputs, labels + 9) for inputs, labels in batches()],
                                process_group=group.WORLD)
        assert [module.training for module in made.modules()] == [True] * len(list(made.modules()))
    return list(whole(dict(made.named_parameters())).values())


@pytest.mark.parametrize("kind", ["estimate", "forward only", "failure"])
def test_the_model_is_left_as_found_and_trains_on(processes, kind):
    for expected, found in zip(processes.same(trained, "nothing"), processes.same(trained, kind), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def alone(rank: int) -> None:
    fisher.diagonal(sharded(), batches())


def test_shards_without_a_group_are_refused(processes):
    for error in processes.run(alone):
        assert isinstance(error, ValueError)
        assert "process_group=torch.distributed.group.WORLD" in str(error)


def test_fsdp1_is_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # making one takes an accelerator
    nn.Module.__init__(wrapped)
    with pytest.raises(ValueError, match=r"shard the model with torch\.distributed\.fsdp\.fully_shard \(FSDP2\)"):
        fisher.diagonal(nn.Sequential(wrapped, nn.Linear(2, 2)), batches())


def anchored(rank: int, path: str) -> Exception | None:
    from torch.distributed import group

    kept = fisher.anchored(sharded(), batches()[rank::2], process_group=group.WORLD)
    try:
        kept.save(path)
    except ValueError as error:
        text = str(error)
    gathered = kept.gathered()
    if rank == 0:
        gathered.save(path)
    torch.distributed.barrier()
    return text


def test_a_file_holds_whole_tensors(processes, tmp_path):
    path = str(tmp_path / "fisher.safetensors")
    for text in processes.same(anchored, path):
        assert "gathered()" in text
    kept, expected = Anchored.load(path), fisher.anchored(model(), batches())
    assert kept.examples == expected.examples
    for name, value in expected.curvature.items():
        torch.testing.assert_close(kept.curvature[name], value, rtol=1e-12, atol=1e-18)
        assert torch.equal(kept.anchor[name], expected.anchor[name])


def pulled(rank: int) -> tuple[float, dict[str, Tensor], float]:
    """Penalty, its gradients and the proximal step's result, on shards, after the weights have moved."""
    from torch.distributed import group

    from forgetting import EWC

    made = sharded()
    ewc = EWC(3.0)
    ewc.consolidate(made, curvature=fisher.diagonal(made, batches()[rank::2], process_group=group.WORLD))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    penalty = ewc.penalty(made)
    penalty.backward()
    gradients = whole({name: parameter.grad for name, parameter in made.named_parameters()})
    value = penalty.full_tensor() if hasattr(penalty, "full_tensor") else penalty
    return float(value), gradients, {name: pull.full_tensor() for name, pull in ewc.pull(made).items()}


def loaded(rank: int, path: str) -> float:
    """The penalty of a file on shards, at its own anchor and one step away."""
    from forgetting import EWC

    made = sharded()
    ewc = EWC(3.0)
    ewc.consolidate(made, curvature=Anchored.load(path).sharded(made))
    assert ewc.penalty(made).item() == 0
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    return ewc.penalty(made).item()


def test_a_file_serves_shards(processes, tmp_path):
    from forgetting import EWC

    path = str(tmp_path / "m")
    fisher.anchored(model(), batches()).save(path)
    made, ewc = model(), EWC(3.0)
    ewc.consolidate(made, curvature=Anchored.load(path))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    for value in processes.same(loaded, path):
        assert value == pytest.approx(ewc.penalty(made).item(), rel=1e-10)


def test_a_penalty_on_shards(processes):
    from forgetting import EWC

    made, ewc = model(), EWC(3.0)
    ewc.consolidate(made, batches())
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1.1)
    penalty = ewc.penalty(made)
    penalty.backward()
    for value, gradients, pulls in processes.same(pulled):
        assert value == pytest.approx(penalty.item(), rel=1e-10)
        for name, parameter in made.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-16)
            torch.testing.assert_close(pulls[name], parameter.grad, rtol=1e-10, atol=1e-16)
