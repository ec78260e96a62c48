#!/bin/sh
# The environment in $VENV, from the locks in requirements/: make calls this.
#
#   environment.sh stamps [auto|cpu|gpu|cu126 and the like]   names of the files in $VENV that say what is installed
#   environment.sh run                     what the study needs: creates $VENV with $PYTHON, and torch's build as $TORCH says
#   environment.sh dev | extras            what tests need besides | what ONNX files, clusters, MLflow and TensorBoard need
#   environment.sh audit                   known vulnerabilities of every package in run.lock, by uv from osv.dev
#   environment.sh lock                    the four locks from pyproject.toml
set -eu
cd "$(dirname "$0")/.."
: "${VENV:=.venv}" "${PYTHON:=python3}" "${TORCH:=auto}"
bin=$VENV/bin

# Which build of torch: the small one (cpu) if Linux has no driver of a GPU; macOS has one build, which counts as gpu.
# An installed build for GPUs stays: on a cluster, the login node has no driver and shares $VENV with the jobs.
choose_build() {
  test "$TORCH" = auto || { echo "$TORCH"; return; }
  for stamp in "$VENV/.installed-gpu-"* "$VENV/.installed-cu"[0-9]*; do
    if test -e "$stamp"; then stamp=${stamp##*/.installed-}; echo "${stamp%%-*}"; return; fi
  done
  if test "$(uname)" = Linux && ! command -v nvidia-smi >/dev/null 2>&1; then echo cpu; else echo gpu; fi
}

checksum() { cat "$@" | cksum | cut -d' ' -f1; }

list_stamps() {
  build=$(choose_build)
  cd requirements
  echo ".installed-$build-$(checksum run.lock run-cpu.lock)" \
    ".dev-$(checksum dev.lock extras.lock)" ".extras-$(checksum extras.lock)"
}

# Marks as installed what one of the stamps' names begins with.
stamp() {
  names=$(list_stamps)  # before the old one is removed, which says which build is installed
  rm -f "$VENV/$1-"*
  for name in $names; do case $name in "$1"-*) touch "$VENV/$name" ;; esac; done
}

install_lock() { UV_HTTP_TIMEOUT=300 "$bin/uv" pip install --no-deps --python "$bin/python" "$@"; }

install_for() { UV_HTTP_TIMEOUT=300 "$bin/uv" pip install --python "$bin/python" --torch-backend "$@"; }

create_venv() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "Python 3.11 or newer is needed: sudo apt-get install python3 (or: brew install python)," >&2
    echo "or name one that you have: make env PYTHON=python3.12" >&2
    exit 1
  }
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || test -x "$bin/uv" || {
    echo "Python's venv is missing: sudo apt-get install python3-venv" >&2
    exit 1
  }
  test -x "$bin/python" || "$PYTHON" -m venv "$VENV"
  sed -n '/^uv==/,/# via/p' requirements/dev.lock >"$VENV/uv.lock"
  test -x "$bin/uv" || "$bin/python" -m pip install -q --no-deps --require-hashes -r "$VENV/uv.lock"
}

install_run() {
  create_venv
  quiet=-q backend='' older='' lock=requirements/run.lock size="6 GB" build=$(choose_build)
  if test -t 2; then quiet=''; fi
  case $build in cu[0-9]*)  # the same torch for an older CUDA, with the libraries that it names
    older=$(sed -n 's/^\(torch==[0-9.]*\).*/\1/p; s/^\(torchvision==[0-9.]*\).*/\1/p' requirements/run.lock)
    problem=$(install_for "$build" --dry-run $older 2>&1) || {
      echo "$problem" >&2
      echo "torch for $build cannot be had here; https://download.pytorch.org/whl/torch lists what there is." >&2
      exit 1
    }
    lock=$VENV/run.lock
    awk '/^[^ #]/ { out = /^(torch|torchvision|triton)==|^(nvidia|cuda)-/ } !out' requirements/run.lock >"$lock"
  esac
  if test "$build" = cpu; then
    if problem=$(UV_HTTP_RETRIES=1 install_lock --dry-run --torch-backend cpu -r requirements/run-cpu.lock 2>&1); then
      lock=requirements/run-cpu.lock size="1.5 GB" backend="--torch-backend cpu"
    elif test "$TORCH" = cpu; then
      echo "$problem" >&2
      exit 1
    else
      reason=$(echo "$problem" | sed -n 's/^ *//;2p')
      echo "torch's small build cannot be had here ($reason): the large one, without triton"
      lock=$VENV/run.lock size="5 GB"
      awk '/^[^ #]/ { out = /^triton==/ } !out' requirements/run.lock >"$lock"
    fi
  fi
  echo "building the environment in $VENV (the first time: some minutes, about $size)"
  install_lock --compile-bytecode $quiet $backend -r "$lock"
  test -z "$older" || install_for "$build" $quiet $older
  "$bin/uv" pip install -q --python "$bin/python" --no-deps --no-build-isolation -e .
  # Libraries ask for widgets that a notebook here does not use; without this line each says so in red.
  "$bin/python" -m ipykernel install --sys-prefix --name lesion-utils --display-name lesion-utils \
    --env PYTHONWARNINGS "ignore:IProgress not found" >/dev/null
  stamp .installed
}

audit() {
  {
    echo "# /// script"
    echo '# requires-python = ">=3.11"'
    echo "# dependencies = ["
    sed -n 's/ *\\$//; s/^\([a-z0-9].*==.*\)/# "\1",/p' requirements/run.lock
    echo "# ]"
    echo "# ///"
  } >"$VENV/audit.py"
  "$bin/uv" audit --preview-features audit-command --script "$VENV/audit.py" || {
    test $? = 1 || echo "nothing was checked: the list of packages or https://api.osv.dev cannot be reached from here" >&2
    exit 1
  }
}

compile_lock() {
  "$bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" "$@"
}

lock_all() {
  run=requirements/run.lock extras=requirements/extras.lock cpu=requirements/run-cpu.lock
  compile_lock pyproject.toml -o $run
  compile_lock --group pyproject.toml:extras -c $run -o $extras
  compile_lock --group pyproject.toml:dev -c $run -c $extras -o requirements/dev.lock
  compile_lock --torch-backend cpu -c $run pyproject.toml -o $cpu 2>/dev/null || {
    echo "torch's small build cannot be asked for from here: run-cpu.lock pins torch without its hashes"
    awk '/^[^ #]/ { out = /^(triton|nvidia-|cuda-)/; bare = /^torch(vision)?==/ }
      !out && !(bare && /--hash/) { if (bare) sub(/ .$/, ""); print }' $run >$cpu
  }
}

case $1 in
  stamps) TORCH=${2:-auto}; list_stamps ;;
  run) install_run ;;
  dev) install_lock -q -r requirements/dev.lock -r requirements/extras.lock; stamp .dev; stamp .extras ;;
  extras) install_lock -q -r requirements/extras.lock; stamp .extras ;;
  audit) audit ;;
  lock) lock_all ;;
  *) sed -n '2,/^set/s/^#//p' "$0" >&2; exit 2 ;;
esac
