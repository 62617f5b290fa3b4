"""`fluxcompile explain`: what became of each layer."""

from typing import Annotated

import typer

from fluxcompile.cli.shared import (
    ExampleOption,
    JsonOption,
    ModelArgument,
    WithoutOption,
    opened_net,
    print_json,
)
from fluxcompile.errors import OptionError


def explain(
    model: ModelArgument,
    example: ExampleOption = None,
    without: WithoutOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps of the CPU's plan instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show each layer of MODEL: its domain, its form, its cost, and why it stays dense."""
    net = opened_net(model, example, without, None)
    explained = net.explain()
    if plan and net.program.plan is None:
        raise OptionError(f"{model}: has no plan for the CPU; its kernels take float32 and uint8 images")
    if plan:
        steps = net.program.plan.text()
        print_json({"steps": steps.splitlines()}) if as_json else typer.echo(steps)
    elif as_json:
        print_json(explained.to_json())
    else:
        typer.echo(str(explained))
