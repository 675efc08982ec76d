"""A rehearsal imports no compiler, takes the same steps, and a model that compiles has it."""

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import sys
import torch
from consilo.learners.uncompiled import uncompiled
def steps(name):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    return model.weight.detach().clone()
names = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "Adadelta", "NAdam", "Rprop", "ASGD"]
"""


def run(program):
    text = HEAD + textwrap.dedent(program)
    subprocess.run([sys.executable, "-c", text], check=True, timeout=120)


def test_steps_are_the_same_with_and_without_and_nothing_is_left_behind():
    run("""
        with uncompiled():
            without = [steps(name) for name in names]
        assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
        assert "_dynamo" not in vars(torch)
        after = [steps(name) for name in names]
        import torch._dynamo
        from types import ModuleType
        assert type(torch._dynamo) is ModuleType
        with uncompiled():
            assert type(torch._dynamo) is ModuleType
            present = [steps(name) for name in names]
        assert type(sys.modules["torch._dynamo"]) is ModuleType
        for a, b, c in zip(without, after, present, strict=True):
            assert torch.equal(a, b) and torch.equal(b, c)
    """)


@pytest.mark.parametrize(
    "use",
    [
        "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2))",
        "torch._dynamo.config.cache_size_limit",
        "exec('import torch._dynamo.config as c; c.verbose')",
        "exec('from torch._dynamo import is_compiling; is_compiling()')",
    ],
)
def test_whoever_uses_the_compiler_gets_it(use):
    run(f"""
        with uncompiled():
            steps("SGD")
            {use}
            steps("Adam")
            from types import ModuleType
            assert type(sys.modules["torch._dynamo"]) is ModuleType
            assert torch._dynamo is sys.modules["torch._dynamo"]
        steps("SGD")
        assert torch._dynamo is sys.modules["torch._dynamo"]
    """)
