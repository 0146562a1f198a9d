{{- define "fabric-skeleton.keySecret" -}}
{{- with .Values.exporter.key -}}
{{- if and .existingSecret .value }}{{ fail "exporter.key: give existingSecret or value, not both" }}{{ end -}}
{{- if .existingSecret -}}{{ .existingSecret }}
{{- else if .value -}}{{ include "fabric-skeleton.name" $ }}-key
{{- else -}}{{ fail "exporter.key: name an existingSecret with the key probe.key; values.yaml says how to make one" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The exporter's configuration, with what only the chart knows. */}}
{{- define "fabric-skeleton.config" -}}
{{- $given := .Values.exporter.config -}}
{{- $config := deepCopy $given -}}
{{- if include "fabric-skeleton.topology" . }}{{ $_ := set $config "topology" "/run/topology/topology.yaml" }}{{ end -}}
{{- if include "fabric-skeleton.plansByService" . -}}
{{- $url := printf "https://%s.%s.svc:%s" (include "fabric-skeleton.serviceName" .) .Release.Namespace (include "fabric-skeleton.servicePort" .) -}}
{{- $made := dict "url" $url "plans" "/run/plans" "token_file" "/run/service/token" "ca_file" "/run/service/ca.crt" -}}
{{- if and (eq .Values.exporter.mode "setns") (not (dig "url" "" (default dict $given.service))) -}}
{{- fail "exporter.config.service.url: in mode setns the service's name in the cluster is not known; give an address that the namespace reaches" -}}
{{- end -}}
{{- $_ := set $config "service" (mergeOverwrite $made (default dict $given.service)) -}}
{{- end -}}
{{- if include "fabric-skeleton.plan" . }}{{ $_ := set $config "plan" "/run/plan/plan.json" }}{{ end -}}
{{- if hasKey $given "probing" -}}
{{- $_ := set $config "probing" (merge (dict "key_file" "/run/key/probe.key") (default dict $given.probing)) -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{/* The volume with the plan, or nothing. */}}
{{- define "fabric-skeleton.plan" -}}
{{- with .Values.exporter.plan -}}
{{- if and .configMap .hostPath }}{{ fail "exporter.plan: give configMap or hostPath, not both" }}{{ end -}}
{{- if .configMap -}}
configMap: {name: {{ .configMap }}, optional: true}
{{- else if .hostPath -}}
hostPath: {path: {{ .hostPath }}, type: DirectoryOrCreate}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Capabilities that the exporter itself uses, as Linux names them, in lower case, a list in JSON. */}}
{{- define "fabric-skeleton.capabilities" -}}
{{- $needed := list -}}
{{- if and (hasKey .Values.exporter.config "rdma") (eq .Values.exporter.rdma.lockMemory "capability") -}}
{{- $needed = append $needed "ipc_lock" -}}
{{- end -}}
{{- if hasKey .Values.exporter.config "underlay" }}{{ $needed = append $needed "net_raw" }}{{ end -}}
{{ toJson $needed }}
{{- end -}}

{{/* Whether the container starts with more than the exporter needs, to enter a namespace or to open devices, so that the
command itself becomes an ordinary user. */}}
{{- define "fabric-skeleton.stepsDown" -}}
{{- if or (eq .Values.exporter.mode "setns") (include "fabric-skeleton.privileged" .) }}true{{ end -}}
{{- end -}}

{{- define "fabric-skeleton.privileged" -}}
{{- if and (hasKey .Values.exporter.config "rdma") .Values.exporter.rdma.privileged }}true{{ end -}}
{{- end -}}

{{/* Kubernetes gives capabilities to root alone: to another user they would only be permitted. So root it is where any
is needed, with these and no other; an ordinary user elsewhere. Beside a SYS_ADMIN spelt CAP_SYS_ADMIN the API would refuse
allowPrivilegeEscalation: false (no_new_privs), with which root keeps what it has, for nsenter and setpriv. */}}
{{- define "fabric-skeleton.securityContext" -}}
{{- $capabilities := include "fabric-skeleton.capabilities" . | fromJsonArray -}}
{{- if eq .Values.exporter.mode "setns" -}}
{{- $capabilities = concat (list "sys_admin" "setuid" "setgid" "setpcap") $capabilities -}}
{{- end -}}
{{- if or $capabilities (include "fabric-skeleton.stepsDown" .) }}
runAsNonRoot: false
runAsUser: 0
runAsGroup: 0
{{- else }}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
{{- end }}
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
{{- if include "fabric-skeleton.privileged" . }}
privileged: true
{{- else }}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- if $capabilities }}
  add: {{ $capabilities | toJson | upper }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* In mode setns into the namespace as root, and from there on as an ordinary user with what the exporter needs; as that
user in a privileged container too. */}}
{{- define "fabric-skeleton.command" -}}
{{- $command := list "fabric-exporter" "run" "--config" "/etc/fabric-exporter/config.yaml" -}}
{{- if eq .Values.exporter.mode "sidecar" }}{{ $command = concat $command (list "--host" "$(NODE_NAME)") }}{{ end -}}
{{- if include "fabric-skeleton.stepsDown" . -}}
{{- $kept := "-all" -}}
{{- range include "fabric-skeleton.capabilities" . | fromJsonArray }}{{ $kept = printf "%s,+%s" $kept . }}{{ end -}}
{{- $user := list "setpriv" "--reuid=65534" "--regid=65534" "--clear-groups" "--no-new-privs" -}}
{{- range list "inh-caps" "ambient-caps" "bounding-set" }}{{ $user = append $user (printf "--%s=%s" . $kept) }}{{ end -}}
{{- $command = concat $user $command -}}
{{- end -}}
{{- if eq .Values.exporter.mode "setns" -}}
{{- $command = concat (list "nsenter" (include "fabric-skeleton.namespace" .)) $command -}}
{{- end -}}
{{ toJson $command }}
{{- end -}}

{{- define "fabric-skeleton.namespace" -}}
--net={{ required "exporter.setns.namespace: name the network namespace's file, as /run/netns/fabric" .Values.exporter.setns.namespace }}
{{- end -}}

{{/* A probe of the kubelet. It cannot reach another network namespace, so there the container asks itself. */}}
{{- define "fabric-skeleton.probe" -}}
{{- $listen := default dict (index .root.Values.exporter.config "listen") -}}
{{- $port := default 9105 (index $listen "port") | int -}}
{{- $address := default "0.0.0.0" (index $listen "address") -}}
{{- if eq .root.Values.exporter.mode "setns" -}}
{{- $host := ternary "127.0.0.1" $address (eq $address "0.0.0.0") -}}
{{- $ask := printf "import urllib.request as r; r.urlopen('http://%s:%d%s', timeout=3)" $host $port .path -}}
exec:
  command: {{ list "nsenter" (include "fabric-skeleton.namespace" .root) "python3" "-c" $ask | toJson }}
{{- else -}}
httpGet:
  path: {{ .path }}
  port: {{ $port }}
  {{- if ne $address "0.0.0.0" }}
  host: {{ $address | quote }}
  {{- end }}
{{- end }}
periodSeconds: 10
timeoutSeconds: 5
{{- end -}}

{{/* The exporter's container; of mode sidecar one for `initContainers`, which starts before the job and ends with it,
and whose readiness is not the job's. */}}
{{- define "fabric-skeleton.container" -}}
{{- $rdma := hasKey .Values.exporter.config "rdma" -}}
{{- with .Values.exporter.rdma -}}
{{- if and $rdma (not .resource) (not .privileged) (not $.Values.injector.enabled) -}}
{{- fail "exporter.rdma: name the device plugin's resource, or set privileged: devices are forbidden to containers otherwise" -}}
{{- end -}}
{{- if and .resource .privileged }}{{ fail "exporter.rdma: give resource or privileged, not both" }}{{ end -}}
{{- end -}}
name: fabric-exporter
image: {{ include "fabric-skeleton.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- if eq .Values.exporter.mode "sidecar" }}
restartPolicy: Always
{{- end }}
command: {{ include "fabric-skeleton.command" . }}
{{- if eq .Values.exporter.mode "sidecar" }}
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}
{{- if ne .Values.exporter.mode "setns" }}
ports:
  - {name: metrics, containerPort: {{ dig "port" 9105 (default dict .Values.exporter.config.listen) | int }}, protocol: TCP}
{{- end }}
livenessProbe:
  {{- include "fabric-skeleton.probe" (dict "root" . "path" "/healthz") | nindent 2 }}
{{- if ne .Values.exporter.mode "sidecar" }}
readinessProbe:
  {{- include "fabric-skeleton.probe" (dict "root" . "path" "/readyz") | nindent 2 }}
{{- end }}
securityContext:
  {{- include "fabric-skeleton.securityContext" . | trim | nindent 2 }}
{{- $resources := deepCopy .Values.exporter.resources }}
{{- if and $rdma .Values.exporter.rdma.resource }}
{{- $limits := merge (dict .Values.exporter.rdma.resource 1) (default dict $resources.limits) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
volumeMounts:
  - {name: fabric-config, mountPath: /etc/fabric-exporter, readOnly: true}
  {{- if include "fabric-skeleton.topology" . }}
  - {name: fabric-topology, mountPath: /run/topology, readOnly: true}
  {{- end }}
  {{- if include "fabric-skeleton.plansByService" . }}
  - {name: fabric-plans, mountPath: /run/plans}
  - {name: fabric-service, mountPath: /run/service, readOnly: true}
  {{- end }}
  {{- if hasKey .Values.exporter.config "probing" }}
  - {name: fabric-key, mountPath: /run/key, readOnly: true}
  {{- end }}
  {{- if include "fabric-skeleton.plan" . }}
  - {name: fabric-plan, mountPath: /run/plan, readOnly: true}
  {{- end }}
  {{- with .Values.exporter.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if and $rdma .Values.exporter.rdma.privileged }}
  - {name: infiniband, mountPath: /dev/infiniband}
  {{- end }}
  {{- if eq .Values.exporter.mode "setns" }}
  - {name: netns, mountPath: {{ dir .Values.exporter.setns.namespace }}, mountPropagation: HostToContainer, readOnly: true}
  {{- end }}
{{- end -}}

{{- define "fabric-skeleton.volumes" -}}
{{- /* What is not in a job's namespace keeps its exporter from starting, never the job. */}}
{{- $optional := ternary ", optional: true" "" (eq .Values.exporter.mode "sidecar") }}
- name: fabric-config
  configMap: {name: {{ include "fabric-skeleton.name" . }}{{ $optional }}}
{{- with include "fabric-skeleton.topology" . }}
- name: fabric-topology
  configMap: {name: {{ . }}{{ $optional }}}
{{- end }}
{{- if include "fabric-skeleton.plansByService" . }}
- name: fabric-plans
  emptyDir: {sizeLimit: 256Mi}
- name: fabric-service
  projected:
    defaultMode: 0444
    sources:
      # Of the pod and its node: the service believes it for that node alone.
      - serviceAccountToken: {path: token, audience: {{ include "fabric-skeleton.audience" . }}, expirationSeconds: 3600}
      - secret:
          name: {{ include "fabric-skeleton.serviceSecret" . }}
          items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- if hasKey .Values.exporter.config "probing" }}
- name: fabric-key
  secret: {secretName: {{ include "fabric-skeleton.keySecret" . }}, defaultMode: 0444{{ $optional }}}
{{- end }}
{{- with include "fabric-skeleton.plan" . }}
- name: fabric-plan
  {{- . | nindent 2 }}
{{- end }}
{{- with .Values.exporter.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if and (hasKey .Values.exporter.config "rdma") .Values.exporter.rdma.privileged }}
- name: infiniband
  hostPath: {path: /dev/infiniband, type: Directory}
{{- end }}
{{- if eq .Values.exporter.mode "setns" }}
- name: netns
  hostPath: {path: {{ dir .Values.exporter.setns.namespace }}, type: Directory}
{{- end }}
{{- end -}}
