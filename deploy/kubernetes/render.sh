#!/bin/sh
# Write manifests for kubectl to standard output, rendered from the Helm chart with values.yaml, or with the files of
# values that are named. Without the namespace, so that `kubectl --namespace` chooses it, and without Helm's own labels.
set -eu
cd "$(dirname "$0")/../.."
helm=.packages/helm/helm
[ -x $helm ] || helm=helm
[ $# -gt 0 ] || set -- deploy/kubernetes/values.yaml
for file; do
    set -- "$@" --values "$file"
    shift
done
echo '# Rendered from the Helm chart by deploy/kubernetes/render.sh.'
# go install gives helm the version of no Kubernetes.
$helm template portspec deploy/helm/portspec --kube-version 1.34.0 "$@" |
    sed '/^ *namespace: default$/d; /^ *helm.sh\/chart: /d; /^ *app.kubernetes.io\/managed-by: /d; /^# Source: /d'
