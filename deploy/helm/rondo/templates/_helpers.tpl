{{/* Names and labels. Pods and users of the bus share their names, so the release's is the prefix. */}}
{{- define "rondo.name" -}}
{{- if gt (len .Release.Name) 40 }}{{ fail "the release's name must have at most 40 characters" }}{{ end -}}
{{ .Release.Name }}
{{- end }}

{{- define "rondo.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: rondo
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Takes (list . "component"). */}}
{{- define "rondo.selector" -}}
app.kubernetes.io/name: rondo
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Takes (list . "gateway" or "worker:vllm"). */}}
{{- define "rondo.image" -}}
{{- $root := index . 0 -}}
{{- $parts := splitList ":" (index . 1) -}}
{{- $tag := $root.Values.image.tag -}}
{{- if gt (len $parts) 1 }}
{{- $tag = eq $tag "latest" | ternary (index $parts 1) (printf "%s-%s" (index $parts 1) $tag) }}
{{- end -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
rondo/{{ index $parts 0 }}:{{ $tag }}
{{- end }}

{{- define "rondo.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "rondo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What every pod has. Takes (list . "component" .Values.component). */}}
{{- define "rondo.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "rondo.name" $root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "rondo.podSecurity" $root | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 2).nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with (index . 2).tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "rondo.selector" (list $root (index . 1)) | nindent 8 }}
{{- end }}

{{/* Settings of every program. Takes (list . .Values.component). */}}
{{- define "rondo.env" -}}
{{- $root := index . 0 -}}
- {name: NATS_URL_FILE, value: /run/rondo/nats_url}
{{- if $root.Values.nats.tlsSecret }}
- {name: NATS_CA, value: /run/tls/ca.crt}
{{- end }}
- {name: RONDO_LOG_LEVEL, value: {{ $root.Values.logLevel | quote }}}
{{- range $name, $value := (index . 1).env }}
- {name: {{ $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}

{{- define "rondo.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 150
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Mounts and volumes that programs have: where to write, the authority of the bus, the model. */}}
{{- define "rondo.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.nats.tlsSecret }}
- {name: bus-tls, mountPath: /run/tls, readOnly: true}
{{- end }}
{{- end }}

{{- define "rondo.volumes" -}}
- name: tmp
  emptyDir: {medium: Memory, sizeLimit: 64Mi}
{{- if .Values.nats.tlsSecret }}
- name: bus-tls
  secret:
    secretName: {{ .Values.nats.tlsSecret }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{- define "rondo.modelPath" -}}
{{- if or .Values.model.existingClaim .Values.model.hostPath -}}
/model
{{- else -}}
/opt/rondo/lib/python3.11/site-packages/rondo/models/rondo-tiny
{{- end }}
{{- end }}

{{- define "rondo.modelVolume" -}}
{{- if .Values.model.existingClaim }}
- name: model
  persistentVolumeClaim: {claimName: {{ .Values.model.existingClaim }}, readOnly: true}
{{- else if .Values.model.hostPath }}
- name: model
  hostPath: {path: {{ .Values.model.hostPath }}, type: Directory}
{{- end }}
{{- end }}

{{- define "rondo.modelMount" -}}
{{- if or .Values.model.existingClaim .Values.model.hostPath }}
- {name: model, mountPath: /model, readOnly: true}
{{- end }}
{{- end }}
