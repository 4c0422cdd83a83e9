#!/usr/bin/env bash
# Puts into the chart what has its source elsewhere (crds/, grafana/), and renders manifests/install from the chart.
#
#   charts/generate.sh           writes the files
#   charts/generate.sh --check   writes nothing; says what is out of date, and fails if anything is
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

. tests/setup/versions.env
helm="${XDG_CACHE_HOME:-$HOME/.cache}/analytics-pipeline/helm-$helm/helm"
[ -x "$helm" ] || helm=$(command -v helm) || { echo "helm is missing: run tests/setup/setup.sh helm" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# copies <folder> <pattern> <folder of the chart>
copies() {
  local target="$work/charts/analytics-pipeline/files/$3"
  mkdir -p "$target"
  find "$1" -maxdepth 1 -name "$2" ! -name kustomization.yaml -exec cp {} "$target" \; 2>/dev/null || true
}

cp -r --parents charts/analytics-pipeline "$work"
rm -rf "$work/charts/analytics-pipeline/files"
copies crds '*.yaml' crds
copies grafana '*.json' dashboards
# Alerts about a pipeline are made with it, by the controller.
copies grafana/alerts 'controller.yaml' rules

# The labels of Helm would say that a release owns these objects.
render() {
  "$helm" template analytics "$work/charts/analytics-pipeline" --namespace analytics-system --kube-version 1.36.0 "$@" |
    sed -e '/^ *helm.sh\/chart: /d' -e 's/app.kubernetes.io\/managed-by: Helm/app.kubernetes.io\/managed-by: kubectl/' -e '/^# Source: /d'
}

mkdir -p "$work/manifests/install"
{
  echo '# Rendered from charts/analytics-pipeline by charts/generate.sh: change it there.'
  render --set crds.enabled=false --set image.tag=dev
} >"$work/manifests/install/operator.yaml"
cp crds/analyticspipelines.yaml "$work/manifests/install/crd.yaml"

outcome=0
# settle <made> <kept>: a folder or file of the repository becomes, or is compared with, what was made.
settle() {
  if [ "${check:-}" ]; then
    diff --recursive --unified=1 "$2" "$1" || { echo "$2 is out of date: run make chart" >&2; outcome=1; }
  else
    rm -rf "$2"
    cp -r "$1" "$2"
  fi
}
[ "${1:-}" != --check ] || check=yes
settle "$work/charts/analytics-pipeline/files" charts/analytics-pipeline/files
settle "$work/manifests/install/operator.yaml" manifests/install/operator.yaml
settle "$work/manifests/install/crd.yaml" manifests/install/crd.yaml
exit $outcome
