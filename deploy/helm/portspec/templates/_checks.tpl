{{/* What values.schema.json cannot say: values that make no sense together. */}}
{{- define "portspec.checks" -}}
{{- $values := .Values }}
{{- if and (not $values.config) (not $values.configExistingSecretName) }}
{{- fail "config is empty: set config.hosts and config.scanports, or configExistingSecretName (docs/configuration.md)" }}
{{- end }}
{{- if and $values.config $values.configExistingSecretName }}
{{- fail "config and configExistingSecretName are both set: remove one of them" }}
{{- end }}
{{- $config := fromYaml (include "portspec.config" .) }}
{{- if hasKey $config "Error" }}
{{- fail (printf "config is a text that is no YAML: correct it (%s)" $config.Error) }}
{{- end }}
{{- if not $values.secretConfig }}
{{- include "portspec.checkSecrets" (dict "block" $config "path" "config" "names" (list "smtppassword")) }}
{{- with $config.audit }}
{{- include "portspec.checkSecrets" (dict "block" . "path" "config.audit" "names" (list "passphrase" "previous_passphrase")) }}
{{- end }}
{{- $sources := dig "discovery" "http_sd" list $config }}
{{- range $place, $source := kindIs "map" $sources | ternary (list $sources) $sources }}
{{- include "portspec.checkSecrets" (dict "block" $source "path" (printf "config.discovery.http_sd[%d]" $place) "names" (list "password" "bearer_token")) }}
{{- end }}
{{- end }}
{{- if and (eq (dig "scan" "engine" "auto" $config) "syn") (not $values.raw.enabled) }}
{{- fail "config.scan.engine is syn, which needs a capability: set raw.enabled: true, or engine: auto" }}
{{- end }}
{{- if and $values.raw.runAsRoot (not $values.raw.enabled) }}
{{- fail "raw.runAsRoot is set without raw.enabled: set raw.enabled: true, or remove raw.runAsRoot" }}
{{- end }}
{{- $name := include "portspec.fullname" . }}
{{- if and $values.prometheusRule.enabled (not (contains "portspec" $name)) }}
{{- fail (printf "prometheusRule: the rules find portspec by the job of Prometheus, which is %q: let fullnameOverride contain portspec" $name) }}
{{- end }}
{{- end }}

{{/* A secret of the configuration may come from the environment, ${NAME}, but not stand in a ConfigMap. */}}
{{- define "portspec.checkSecrets" -}}
{{- $block := .block }}
{{- $path := .path }}
{{- range $name := kindIs "map" $block | ternary .names list }}
{{- $secret := get $block $name | toString }}
{{- if and $secret (not (hasPrefix "${" $secret)) }}
{{- fail (printf "%s.%s is a secret, and the configuration is in a ConfigMap: set secretConfig: true, or mount a file with extraSecretMounts and set %s_file" $path $name $name) }}
{{- end }}
{{- end }}
{{- end }}
