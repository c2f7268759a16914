#!/bin/bash
# Puts the course into the portal's Jupyter menu: ~/portal/jupyter/llmhw.sh, with your folders filled in.
# Run it again at any time: it changes nothing when nothing is new, and keeps what it replaces as llmhw.sh.bak.
set -euo pipefail
unset CDPATH  # cd would go elsewhere by it, and print where to
for name in $(compgen -A function); do unset -f "$name"; done  # a shell may export one called cd, or like any other

usage='usage: ondemand/install.sh --project FOLDER [--image FILE] [--modules "NAME ..."] [--dry-run]
  --project FOLDER       project storage, where all caches go
  --image FILE           use this container image (without it: the .venv that make setup puts into this clone)
  --modules "NAME ..."   modules to load first, such as the Python that made .venv
  --dry-run              say what would be done, and do nothing'

wrong() { printf 'install: %s\n%s\n' "$*" "$usage" >&2; exit 2; }
fail() { echo "install: $*" >&2; exit 1; }

project='' image='' modules=() dry_run=''
while [ $# -gt 0 ]; do
  case $1 in
    --project | --image | --modules)
      [ -n "${2:-}" ] || wrong "$1 needs a value"
      case $1 in
        --project) project=$2 ;;
        --image) image=$2 ;;
        --modules) read -ra modules <<< "$2" ;;
      esac
      shift 2 ;;
    --dry-run) dry_run=yes; shift ;;
    -h | --help) echo "$usage"; exit 0 ;;
    *) wrong "unknown argument: $1" ;;
  esac
done
[ -n "$project" ] || wrong "--project is missing"
[ -n "${HOME:-}" ] || fail "HOME is not set: it says where the portal's menu is; run it as HOME=FOLDER ondemand/install.sh ..."
[ -d "$project" ] || fail "no project folder $project"

# Absolute paths, for the portal starts elsewhere.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
course=$(dirname "$here")
project=$(cd "$project" && pwd)
[ -z "$image" ] || image=$(realpath --canonicalize-missing --no-symlinks "$image")
case $project$course$image in
  *[:,]*) fail "a path with a colon or a comma cannot be given to a container: $project, $course, $image" ;;
esac

# The runtime script with its four settings replaced.
filled_in() {
  local line
  while IFS= read -r line; do
    case $line in
      LLMHW_PROJECT=*) printf 'LLMHW_PROJECT=%q\n' "$project" ;;
      LLMHW_COURSE=*) printf 'LLMHW_COURSE=%q\n' "$course" ;;
      LLMHW_IMAGE=*) printf 'LLMHW_IMAGE=%q\n' "$image" ;;
      LLMHW_MODULES=*) printf 'LLMHW_MODULES=('; [ ${#modules[@]} -eq 0 ] || printf ' %q' "${modules[@]}"; printf ' )\n' ;;
      *) printf '%s\n' "$line" ;;
    esac
  done < "$here/llmhw.sh"
}

menu=$HOME/portal/jupyter
target=$menu/llmhw.sh
if [ -f "$target" ] && cmp --silent "$target" <(filled_in); then
  echo "unchanged: $target"
elif [ -n "$dry_run" ]; then
  [ ! -e "$target" ] || echo "would keep the present $target as $target.bak"
  echo "would write: $target"
else
  mkdir -p "$menu" || fail "cannot make the folder $menu"
  new=$(mktemp "$menu/.llmhw.XXXXXX") || fail "cannot write into $menu"
  trap 'rm -f "$new"' EXIT
  filled_in > "$new"
  chmod 755 "$new"
  if [ -e "$target" ]; then
    cp -p --backup=numbered "$target" "$target.bak"
    echo "kept what was there: $target.bak"
  fi
  mv "$new" "$target" || fail "cannot write $target"
  echo "installed: $target"
fi

# What is still missing, as a command.
if [ -n "$image" ]; then
  [ -e "$image" ] || printf 'next: cd %q && apptainer build %q ondemand/llmhw.def\n' "$course" "$image"
else
  [ -x "$course/.venv/bin/jupyter" ] || printf 'next: cd %q && PIP_NO_CACHE_DIR=1 make setup\n' "$course"
fi
