"""A silo's part of a vertical model: what it keeps after training, for later scoring.

The parts of one model have its run's id in common. A part never leaves its silo; a reference to it
does: a SHA-256 that tells nothing of the part, since random bytes are hashed with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from consilo.errors import Refused
from consilo.horizontal.features import Scale
from consilo.jobs.holders import Holders
from consilo.jobs.model_job import ModelJob
from consilo.kernel.view import SiloView
from consilo.vertical.blocks import Block
from consilo.vertical.roles import PARTS
from consilo.wire.payload import pack, unpack


@dataclass(frozen=True)
class Part:
    """One silo's part.

    Args:
        model: the training's run id, the same in all parts.
        job: the job's name.
        purpose: what the model may be used for.
        protocol: which trained it.
        task: binary, multiclass, regression or custom.
        silo: whose part.
        label_silo: who learns what the model says.
        members: every silo that has a part.
        contract: ``name@version`` that it was trained on.
        inputs: names of the encoded inputs, in order.
        features: the job's section of that name: how columns become inputs.
        scale: what standardises the numeric columns: of the rows that were trained on.
        classes: the target's classes in the label silo; empty elsewhere and for values.
        args: of the protocol.
        content: the part itself, by name.
        salt: random bytes, so that the reference tells nothing.
    """

    model: str
    job: str
    purpose: str
    protocol: str
    task: str
    silo: str
    label_silo: str
    members: tuple[str, ...]
    contract: str
    inputs: tuple[str, ...]
    features: Mapping[str, Any]
    scale: Scale
    classes: tuple[Any, ...]
    args: Mapping[str, Any]
    content: Mapping[str, Any]
    salt: bytes

    @classmethod
    def of(cls, silo: SiloView, holders: Holders, block: Block, content: Mapping[str, Any]) -> Self:
        """Return the part that a silo keeps of what it trains now."""
        run_id, job = silo.header.run_id, ModelJob.of(silo.job)
        # The same at a step that is asked again.
        salt = hashlib.sha256(b"part/" + silo.secrets.secret(run_id)).digest()
        return cls(
            model=run_id,
            job=job.name,
            purpose=job.purpose,
            protocol=job.protocol.name,
            task=job.task,
            silo=silo.name,
            label_silo=holders.label_silo,
            members=holders.members,
            contract=silo.contract.ref,
            inputs=block.inputs,
            features=job.features.model_dump(mode="json"),
            scale=block.scale,
            classes=block.classes,
            args=dict(job.protocol.args),
            content=content,
            salt=salt,
        )

    def about(self) -> dict[str, Any]:
        """Return what people in the silo see of the part."""
        return {
            "model": self.model,
            "silo": self.silo,
            "job": self.job,
            "purpose": self.purpose,
            "protocol": self.protocol,
            "contract": self.contract,
            "members": list(self.members),
            "label_silo": self.label_silo,
            "inputs": list(self.inputs),
            "reference": self.digest.hex(),
        }

    @property
    def digest(self) -> bytes:
        """SHA-256 of the part: its reference."""
        return hashlib.sha256(self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """Return the part as `from_bytes` takes it."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {name: list(fields[name]) for name in ("members", "inputs", "classes")}
        fields |= {"scale": self.scale.to_payload(), "salt": self.salt.hex()}
        return pack(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the part that `to_bytes` wrote."""
        value = unpack(data)
        value |= {name: tuple(value[name]) for name in ("members", "inputs", "classes")}
        value |= {"scale": Scale.from_payload(value["scale"]), "salt": bytes.fromhex(value["salt"])}
        return cls(**value)


def part_of_model(silo: SiloView, model: str) -> Part:
    """Return this silo's part of a model, for the job's purpose.

    Raises:
        Refused: where there is none, or it was trained for another purpose.
    """
    part = Part.from_bytes(silo.role(PARTS).part(model))
    require_purpose(part, silo.job.purpose)
    return part


def require_purpose(part: Part, purpose: str) -> None:
    """Raise `Refused` where a model was trained for another purpose."""
    if part.purpose != purpose:
        raise Refused(
            f"the model '{part.model}' was trained for the purpose '{part.purpose}', not for "
            f"'{purpose}'",
            code="purpose",
        )
