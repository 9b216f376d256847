"""Write what the chart has from elsewhere: settings, rules, dashboards; and its schema and README.

`make chart` runs it; with `--check` it writes nothing and says what is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from store.settings import Chart, Settings, chart_role

HERE = Path(__file__).parent
ROOT = HERE.parent
BEGIN = (
    "# Settings of the platform, as in docs/settings.md without KEZEK_; made from the code by `make chart`."
)


def settings() -> dict[str, Any]:
    """The settings that the chart's user may set, with their JSON schema."""
    known = Settings.model_json_schema()["properties"]
    return {
        name: {key: value for key, value in known[name].items() if key not in {"title", "chart", "secret"}}
        for name, field in Settings.model_fields.items()
        if chart_role(field) is Chart.VALUE
    }


def values() -> str:
    """values.yaml with the settings' block made anew."""
    text = (HERE / "values.yaml").read_text(encoding="utf-8")
    lines = ["settings:"]
    for name, schema in settings().items():
        lines += [f"  # {schema['description']}", f"  {name}: {json.dumps(schema['default'])}"]
    block = "\n".join(lines) + "\n"
    return re.sub(
        rf"(?:{re.escape(BEGIN)}\n)?^settings:.*\n(?:^  .*\n)*",
        lambda _: f"{BEGIN}\n{block}",
        text,
        flags=re.MULTILINE,
    )


def schema() -> str:
    """values.schema.json."""
    made = yaml.safe_load((HERE / "schema.yaml").read_text(encoding="utf-8"))
    made["properties"]["settings"]["properties"] = settings()
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def readme() -> str:
    """README.md: its head, and a row for each value with the comment above it."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    text = values()
    flat = yaml.safe_load(text)
    for line in text.splitlines()[2:]:
        if match := re.match(r" *# (.*)", line):
            comment.append(match[1])
            continue
        match = re.match(r"( *)([A-Za-z_]+):(.*)", line)
        if match:
            path = [(depth, key) for depth, key in path if depth < len(match[1])] + [
                (len(match[1]), match[2])
            ]
            keys = [key for _, key in path]
            default = flat
            for key in keys:
                default = default[key]
            if comment and keys != ["settings"]:
                rows.append(f"| `{'.'.join(keys)}` | `{json.dumps(default)}` | {' '.join(comment)} |")
        comment = []
    return (HERE / "README.md.head").read_text(encoding="utf-8") + "\n".join(rows) + "\n"


def outputs() -> dict[Path, str]:
    """Every file that is made, with its content."""
    made = {
        HERE / "values.yaml": values(),
        HERE / "values.schema.json": schema(),
        HERE / "README.md": readme(),
    }
    for folder, pattern in (("prometheus", "*.yaml"), ("grafana", "*.json")):
        for source in sorted((ROOT / "metrics" / folder).glob(pattern)):
            made[HERE / "files" / folder / source.name] = source.read_text(encoding="utf-8")
    return made


def stale() -> list[Path]:
    """Files that are not what they should be, and files that nothing makes."""
    wanted = outputs()
    kept = {path for folder in ("prometheus", "grafana") for path in (HERE / "files" / folder).glob("*")}
    wrong = [
        path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    return sorted({*wrong, *(kept - set(wanted))})


def main() -> int:
    """Write, or check."""
    found = stale()
    if "--check" in sys.argv[1:]:
        for path in found:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run `make chart`\n")
        return 1 if found else 0
    wanted = outputs()
    for path in found:
        if path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
