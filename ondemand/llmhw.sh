#!/bin/bash
# The course's entry in the portal's Jupyter menu. ondemand/install.sh copies it to ~/portal/jupyter/ with the four
# settings filled in. Nothing here depends on the CPU: x86_64 and Arm nodes use it alike.
#   llmhw.sh                  what the portal does: JupyterLab with the portal's own CONFIG_FILE
#   llmhw.sh run COMMAND ...  any other command in the same environment (ondemand/nbval.slurm uses it)

LLMHW_PROJECT=/mimer/NOBACKUP/groups/YOUR_PROJECT             # project storage, for every cache
LLMHW_COURSE=/mimer/NOBACKUP/groups/YOUR_PROJECT/USER/llmhw  # a clone of the course
LLMHW_IMAGE=                                                  # container image; empty: the clone's .venv
LLMHW_MODULES=()                                              # modules to load first

fail() { echo "llmhw: $*" >&2; exit 1; }

# 1. What must be there, or else one line that says which command makes it.
[ -d "$LLMHW_PROJECT" ] || fail "no project folder $LLMHW_PROJECT. Name yours: cd YOUR_CLONE && ondemand/install.sh --project FOLDER"
[ -d "$LLMHW_COURSE" ] || fail "no course in $LLMHW_COURSE. Clone it there, or in a clone run: ondemand/install.sh --project '$LLMHW_PROJECT'"
if [ -n "$LLMHW_IMAGE" ]; then
  [ -e "$LLMHW_IMAGE" ] || fail "no image $LLMHW_IMAGE. Make it: cd '$LLMHW_COURSE' && apptainer build '$LLMHW_IMAGE' ondemand/llmhw.def"
else
  [ -x "$LLMHW_COURSE/.venv/bin/jupyter" ] || fail "no JupyterLab in $LLMHW_COURSE/.venv. Make it: cd '$LLMHW_COURSE' && PIP_NO_CACHE_DIR=1 make setup"
fi
if [ "${1:-}" = run ]; then
  shift
  [ $# -gt 0 ] || fail "run what? Usage: llmhw.sh run COMMAND ..."
else
  [ -f "${CONFIG_FILE:-}" ] || fail "no CONFIG_FILE '${CONFIG_FILE:-}': the portal makes it. Without the portal: bash ${BASH_SOURCE[0]} run jupyter lab"
  set -- jupyter lab --config="${CONFIG_FILE}"
fi

# 2. Modules: only those named above.
ml purge
if [ ${#LLMHW_MODULES[@]} -gt 0 ]; then
  ml "${LLMHW_MODULES[@]}" || fail "cannot load ${LLMHW_MODULES[*]}. See what there is: ml spider Python"
fi

# 3. Caches go to project storage, one folder per user: home holds only 30 GiB and 60,000 files.
cache=$LLMHW_PROJECT/${USER:-$(id -un)}/llmhw-cache
mkdir -p "$cache/cuda" || fail "cannot write to $LLMHW_PROJECT. Name another folder: ondemand/install.sh --project FOLDER"
export LLMHW_HOME=$cache/course HF_HOME=$cache/huggingface PIP_CACHE_DIR=$cache/pip XDG_CACHE_HOME=$cache/xdg
export TRITON_CACHE_DIR=$cache/triton CUDA_CACHE_PATH=$cache/cuda

# 4. As many threads as the job has cores (Slurm sets the first only where a job asks for cores by name).
OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-$(nproc)}}
export OMP_NUM_THREADS

# 5. The clone's helpers, so that notebooks and helpers always match, and its JupyterLab settings; nothing from ~/.local.
export PYTHONPATH=$LLMHW_COURSE PYTHONNOUSERSITE=1 JUPYTER_PREFER_ENV_PATH=1 JUPYTER_CONFIG_PATH=$LLMHW_COURSE/tools/lab

if [ -n "$LLMHW_IMAGE" ]; then
  command -v apptainer > /dev/null || fail "no apptainer on this node. Use modules instead: ondemand/install.sh --project '$LLMHW_PROJECT' --modules NAME"
  apptainer exec --nv --bind "$LLMHW_PROJECT" --bind "$LLMHW_COURSE" "$LLMHW_IMAGE" "$@"
else
  export PATH=$LLMHW_COURSE/.venv/bin:$PATH
  "$@"
fi
