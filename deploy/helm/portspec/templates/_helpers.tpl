{{- define "portspec.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters: Kubernetes appends a hash of 11 to the name of a StatefulSet, in a label of at most 63. */}}
{{- define "portspec.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- $release := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- default $release .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "portspec.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "portspec.selectorLabels" -}}
app.kubernetes.io/name: {{ include "portspec.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "portspec.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "portspec.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- if .Values.releaseLabel }}
release: {{ .Release.Name }}
{{- end }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "portspec.serviceAccountName" -}}
{{- $default := ternary (include "portspec.fullname" .) "default" .Values.serviceAccount.create }}
{{- default $default .Values.serviceAccount.name }}
{{- end }}

{{- define "portspec.image" -}}
{{- $suffix := ternary "-raw" "" (and .Values.raw.enabled (not .Values.raw.runAsRoot)) }}
{{- $tag := default (print .Chart.AppVersion $suffix) .Values.image.tag }}
{{- $registry := default .Values.image.registry .Values.global.imageRegistry }}
{{- with $registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}
{{- with .Values.image.digest }}@{{ . }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}

{{/* The securityContext of the container, with what raw sockets need. */}}
{{- define "portspec.securityContext" -}}
{{- $context := deepCopy .Values.securityContext }}
{{- if .Values.raw.enabled }}
{{- $added := append (dig "capabilities" "add" list $context) "NET_RAW" | uniq }}
{{- $raw := dict "allowPrivilegeEscalation" true "capabilities" (dict "add" $added) }}
{{- if .Values.raw.runAsRoot }}
{{- $raw = dict "allowPrivilegeEscalation" false "capabilities" (dict "add" $added) "runAsUser" 0 "runAsNonRoot" false }}
{{- end }}
{{- $context = mergeOverwrite $context $raw }}
{{- end }}
{{- toYaml $context }}
{{- end }}

{{/* A list, or a text that is a template. */}}
{{- define "portspec.listOrText" -}}
{{- if kindIs "string" .value }}{{ tpl .value .context }}{{ else }}{{ toYaml .value }}{{ end }}
{{- end }}

{{/* The text of the configuration. */}}
{{- define "portspec.config" -}}
{{- if kindIs "string" .Values.config }}{{ .Values.config }}{{ else }}{{ toYaml .Values.config }}{{ end }}
{{- end }}
