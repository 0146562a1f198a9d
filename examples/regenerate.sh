#!/usr/bin/env bash
# Makes every output of this directory from its inputs (topology.yaml, throughput.csv, probe-records.csv) with the
# real commands. A test runs it into another directory and compares; the plan's `expires` alone depends on the clock.
#   examples/regenerate.sh [DIRECTORY]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
service=${SKELETON_SERVICE:-skeleton-service}

cd "$here"
$service infer --throughput throughput.csv --topology topology.yaml --output "$out/skeleton.json"
$service plan --skeleton "$out/skeleton.json" --topology topology.yaml --generation 1 --coverage 0.9 --output "$out/plan.json"
$service rules --skeleton "$out/skeleton.json" --topology topology.yaml --output "$out/rules"
$service diagnose --probes probe-records.csv --topology topology.yaml --skeleton "$out/skeleton.json" \
  --output "$out/diagnosis.json"
