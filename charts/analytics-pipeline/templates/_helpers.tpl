{{/* Name of the controller and of what belongs to it. */}}
{{- define "analytics-pipeline.fullname" -}}
{{- default (printf "%s-controller" .Release.Name) .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "analytics-pipeline.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "analytics-pipeline.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name must name a ServiceAccount that exists when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "analytics-pipeline.leaseName" -}}
{{- default (include "analytics-pipeline.fullname" .) .Values.leaderElection.leaseName -}}
{{- end -}}

{{/* What never changes, for selectors. */}}
{{- define "analytics-pipeline.selectorLabels" -}}
app.kubernetes.io/name: analytics-controller
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "analytics-pipeline.labels" -}}
{{ include "analytics-pipeline.selectorLabels" . }}
app.kubernetes.io/component: controller
app.kubernetes.io/part-of: analytics-pipeline
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* registry/repository:tag, or @digest. */}}
{{- define "analytics-pipeline.image" -}}
{{- $image := .Values.image -}}
{{- $name := ternary $image.repository (printf "%s/%s" $image.registry $image.repository) (empty $image.registry) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A map as key=value, separated by commas. */}}
{{- define "analytics-pipeline.pairs" -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end -}}

{{/* What the operator may do where its pipelines are. No wildcards: each rule says what it is for. */}}
{{- define "analytics-pipeline.rules" -}}
# Pipelines are found and watched; they are never changed.
- apiGroups: [analyticspipeline.dev]
  resources: [analyticspipelines]
  verbs: [list, watch]
# What was found out and decided is told in the status.
- apiGroups: [analyticspipeline.dev]
  resources: [analyticspipelines/status]
  verbs: [patch]
# The consumers. They go with their pipeline, by the garbage collector: no right to delete is needed. (Server-side apply is a
# patch, and needs the right to create as well when the object is new.)
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# The migration that runs before the consumers of a new version; the Job of an older version is removed.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
# The configuration of the consumers, their account (without any right) and the Service by which metrics are found.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# Drains of nodes take one consumer at a time; removed when a pipeline has at most one consumer.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# What lets consumers reach their servers and nothing else, where a pipeline asks for it (spec.networkPolicy); removed when it no
# longer does.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# How Prometheus Operator finds the consumers, and when it raises an alert; only where these kinds exist.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors, prometheusrules]
  verbs: [get, create, patch, delete]
# Which consumers are ready, and why one is not.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# Secrets that pipelines name: their content is needed for the operator's own way to Kafka, and a change has to roll the
# consumers. Each is asked for and watched by its name; they are never listed.
- apiGroups: [""]
  resources: [secrets]
  {{- with .Values.rbac.secretNames }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get, watch]
# What a person wants to read in `kubectl describe`; repeated Events are counted up by a patch.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
