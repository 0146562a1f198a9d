{{- define "fabric-skeleton.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{/* Of a component, as of labels: (dict "root" . "component" "service") */}}
{{- define "fabric-skeleton.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fabric-skeleton.labels" -}}
{{ include "fabric-skeleton.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end -}}

{{- define "fabric-skeleton.image" -}}
{{ required "image.repository: no image is published yet; build one from the Dockerfile" .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* What says where pods run and as what they count, of a component's values. */}}
{{- define "fabric-skeleton.placement" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Of a container that needs no privilege. */}}
{{- define "fabric-skeleton.unprivileged" -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The name of the ConfigMap with the topology, or nothing. */}}
{{- define "fabric-skeleton.topology" -}}
{{- with .Values.topology -}}
{{- if and .text .configMap }}{{ fail "topology: give text or configMap, not both" }}{{ end -}}
{{- if .configMap }}{{ .configMap }}{{ else if .text }}{{ include "fabric-skeleton.name" $ }}-topology{{ end -}}
{{- end -}}
{{- end -}}

{{/* Where the service is asked. */}}
{{- define "fabric-skeleton.serviceName" -}}
{{ include "fabric-skeleton.name" . }}-service
{{- end -}}

{{- define "fabric-skeleton.servicePort" -}}
{{ dig "port" 9106 (default dict .Values.service.config.listen) | int }}
{{- end -}}

{{- define "fabric-skeleton.serviceSecret" -}}
{{ default (printf "%s-tls" (include "fabric-skeleton.serviceName" .)) .Values.service.tls.existingSecret }}
{{- end -}}

{{- define "fabric-skeleton.audience" -}}
{{ printf "fabric-skeleton.%s.%s" .Release.Namespace .Release.Name }}
{{- end -}}

{{/* Whether exporters of this chart have their plans from its service. */}}
{{- define "fabric-skeleton.plansByService" -}}
{{- $plan := .Values.exporter.plan -}}
{{- if and .Values.service.enabled (hasKey .Values.exporter.config "probing") (not $plan.configMap) (not $plan.hostPath) (ne .Values.exporter.mode "sidecar") -}}
true
{{- end -}}
{{- end -}}
