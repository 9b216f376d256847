#!/usr/bin/env bash
# Install the platform from a checkout into a folder: DEST/venv for its processes, DEST/jobenv for jobs.
# Everything comes from the hash-locked requirements; nothing is left that was not asked for. The Containerfile runs it.
set -euo pipefail
source_dir=$(cd "$1" && pwd)
dest=$2
python=${PYTHON:-python3}
mkdir -p "$dest"
dest=$(cd "$dest" && pwd)
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV
export UV_NO_PROGRESS=1
# Bytecode is made here: the image's user cannot write it later. COMPILE=0 leaves it out, for trials.
compile=(--compile-bytecode)
[ "${COMPILE:-1}" = 0 ] && compile=()

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Kezek needs Python 3.11" >&2; exit 1; }
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$source_dir/requirements/uv.lock"

"$tools/bin/uv" venv --quiet --python "$python" "$dest/venv"
"$tools/bin/uv" pip install --quiet --python "$dest/venv/bin/python" "${compile[@]}" --require-hashes -r "$source_dir/requirements/server.lock"
# The wheels are built where the locked build tool is, from a copy, so that the checkout stays as it was.
for part in api products metrics scheduler quota tenants store kezek pyproject.toml README.md; do
    cp -r "$source_dir/$part" "$tools/"
done
"$tools/bin/uv" pip install --quiet --python "$dest/venv/bin/python" "${compile[@]}" --no-deps --no-build-isolation --no-index \
    "$tools/kezek" "$tools"

"$tools/bin/uv" venv --quiet --python "$python" "$dest/jobenv"
"$tools/bin/uv" pip install --quiet --python "$dest/jobenv/bin/python" "${compile[@]}" --require-hashes -r "$source_dir/requirements/job.lock"

"$dest/venv/bin/python" -I -m api.cli --help >/dev/null
