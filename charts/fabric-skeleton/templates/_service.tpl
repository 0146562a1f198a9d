{{/* The service's configuration, with what only the chart knows. */}}
{{- define "fabric-skeleton.serviceConfig" -}}
{{- $service := .Values.service -}}
{{- $agents := dict "audience" (include "fabric-skeleton.audience" .) "accounts" (list (printf "%s/%s" .Release.Namespace (include "fabric-skeleton.name" .))) -}}
{{- $cluster := dict "jobs" $service.pods.enabled "namespaces" $service.pods.namespaces "labels" $service.pods.labels "resources" $service.pods.resources "agents" $agents -}}
{{- $config := dict
  "topology" "/run/topology/topology.yaml"
  "state" "/var/lib/skeleton-service/state.db"
  "listen" (dict "address" "0.0.0.0" "port" 9106)
  "tls" (dict "certificate" "/run/tls/tls.crt" "key" "/run/tls/tls.key")
  "keys" "/run/keys/keys"
  "kubernetes" $cluster -}}
{{- if $service.rules.enabled -}}
{{- $objects := dict "labels" $service.rules.additionalLabels "instance" (include "fabric-skeleton.instance" .) -}}
{{- if $service.rules.namespace }}{{ $_ := set $objects "namespace" $service.rules.namespace }}{{ end -}}
{{- $_ := set $config "rules" (dict "objects" $objects "after_seconds" $service.rules.afterSeconds) -}}
{{- end -}}
{{ mergeOverwrite $config (deepCopy $service.config) | toYaml }}
{{- end -}}

{{/* What tells this service's objects from those of another: a label's value, of 63 characters at most. */}}
{{- define "fabric-skeleton.instance" -}}
{{- $whole := printf "%s.%s" .Release.Namespace .Release.Name -}}
{{- if le (len $whole) 63 }}{{ $whole }}{{ else }}{{ $whole | trunc 54 }}-{{ $whole | sha256sum | trunc 8 }}{{ end -}}
{{- end -}}

{{/* Where pods are looked at, and where rules are written: namespaces, or nothing for all. */}}
{{- define "fabric-skeleton.roleRules" -}}
{{- if .pods }}
- {apiGroups: [""], resources: [pods], verbs: [list, watch]}
{{- end }}
{{- if .rules }}
- {apiGroups: [monitoring.coreos.com], resources: [prometheusrules], verbs: [get, list, create, patch, delete]}
{{- end }}
{{- end -}}
