#!/bin/sh
# `npm run demo`: set-up, then the demo with the arguments given. One script, so that set-up sees them as well
# (`--capture loopback` needs npm alone) and signals reach the demo itself.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/node_modules/.bin:$PATH"
sh deploy/setup.sh demo "$@"
exec node src/cli/main.ts demo "$@"
