{{- define "sluice.name" -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "sluice.image" -}}
{{ .Values.image.repository }}
{{- with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* Directories of the node are mounted below /host, where no rule of a security module that is
about the container's own /sys or /run concerns them. */ -}}
{{- define "sluice.environment" -}}
- name: SLUICE_NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- {name: SLUICE_BPFFS, value: {{ printf "/host%s/sluice" .Values.host.bpffs }}}
- {name: SLUICE_STATE_DIR, value: {{ printf "/host%s" .Values.host.stateDir }}}
- {name: SLUICE_LOG_FORMAT, value: {{ .Values.log.format }}}
{{- with .Values.log.filter }}
- {name: SLUICE_LOG, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "sluice.agentEnvironment" -}}
{{- $netns := list }}{{ range .Values.host.netnsDirs }}{{ $netns = append $netns (printf "/host%s" .) }}{{ end }}
{{- $aliases := list }}{{ range .Values.serviceAliases }}{{ $aliases = append $aliases (printf "%s=%s" .service .address) }}{{ end -}}
- {name: SLUICE_NETNS_DIR, value: {{ join "," $netns | quote }}}
- {name: SLUICE_METRICS_LISTEN, value: {{ printf "%s:%v" .Values.metrics.address .Values.metrics.port | quote }}}
- {name: SLUICE_RULE_METRICS, value: {{ .Values.metrics.rules | quote }}}
- {name: SLUICE_HOST_EGRESS, value: {{ .Values.hostEgress }}}
{{- with $aliases }}
- {name: SLUICE_SERVICE_ALIAS, value: {{ join "," . | quote }}}
{{- end }}
{{- if .Values.apiServer.host }}
- {name: KUBERNETES_SERVICE_HOST, value: {{ .Values.apiServer.host | quote }}}
- {name: KUBERNETES_SERVICE_PORT, value: {{ .Values.apiServer.port | quote }}}
{{- end }}
{{- if .Values.cni.enabled }}
{{ include "sluice.cniEnvironment" . }}
{{- end }}
{{- end }}

{{- define "sluice.cniEnvironment" -}}
- {name: SLUICE_CNI_CONF_DIR, value: {{ printf "/host%s" .Values.cni.confDir }}}
- {name: SLUICE_CNI_BIN_DIR, value: {{ printf "/host%s" .Values.cni.binDir }}}
# The runtime calls the plugin on the node itself: this is the path there.
- {name: SLUICE_CNI_STATE_DIR, value: {{ .Values.host.stateDir }}}
{{- end }}

{{- define "sluice.container" -}}
image: {{ include "sluice.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
# What the agent says when it cannot go on is then in the pod's status too.
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{- /* Why each capability is there is in deploy/README.md. */ -}}
{{- define "sluice.security" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
seccompProfile: {type: RuntimeDefault}
capabilities:
  drop: [ALL]
  add: {{ concat (list "NET_ADMIN" "SYS_ADMIN") .Values.extraCapabilities | toJson }}
{{- end }}

{{- define "sluice.probe" -}}
{{- $address := .Values.metrics.address | trimPrefix "[" | trimSuffix "]" -}}
port: metrics
{{- if not (has $address (list "::" "0.0.0.0")) }}
host: {{ $address | quote }}
{{- end }}
{{- end }}
