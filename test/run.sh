#!/bin/sh
# `npm test`: format, lint, types, then every test. Arguments choose test files or go to node:test:
#
#   npm test -- test/http            the tests under a directory
#   npm test -- test/cli/flags.test.ts --test-name-pattern 'did you mean'
#
# With arguments only the tests chosen are run. Set-up (deploy/setup.sh) has been done.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"

if [ $# -eq 0 ]; then
  if command -v clang-format >/dev/null; then
    find native -path native/build -prune -o \( -name '*.c' -o -name '*.cc' -o -name '*.h' \) -print |
      grep -v vmlinux.h | xargs -r clang-format --dry-run -Werror
  elif [ "${CI:-}" = true ]; then
    echo 'weft: clang-format is missing, so the format of native/ cannot be checked. Run: sh deploy/setup.sh test' >&2
    exit 1
  else
    echo 'weft: no clang-format: the format of native/ is not checked' >&2
  fi
  biome check .
  tsc --noEmit
fi
exec node test/run.ts "$@"
