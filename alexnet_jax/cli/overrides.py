"""The grammar of --config.section.field=value, the same for every command that takes a recipe."""


def split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """(["section.field=value" of every --config.section.field=value], the other arguments)."""
    overrides, rest, i = list[str](), list[str](), 0
    while i < len(argv):
        argument = argv[i].removeprefix("-").removeprefix("-")
        if not argv[i].startswith("-") or not argument.startswith("config."):
            rest.append(argv[i])
        elif "=" in argument or i + 1 == len(argv) or argv[i + 1].startswith("--"):
            overrides.append(argument.removeprefix("config."))
        else:
            i += 1
            overrides.append(f"{argument.removeprefix('config.')}={argv[i]}")
        i += 1
    return overrides, rest
