"""The commands of `trapo`: parse, call one function, print the path of what was made."""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Which mix of imitation and RL really works?")


@app.callback()
def main() -> None:
    """Train, and see what was learned."""


if __name__ == "__main__":
    app()
