{{- define "kezek.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "kezek.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "kezek.labels" -}}
{{ include "kezek.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "kezek.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What every container has: nothing but itself. */ -}}
{{- define "kezek.container" -}}
image: {{ include "kezek.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "kezek.command" -}}
command: [/opt/kezek/venv/bin/python, -I, -m, api.cli]
{{- end -}}

{{- /* What every pod has: no root, no token of Kubernetes. */ -}}
{{- define "kezek.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "kezek.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "kezek.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "kezek.selector" . | nindent 8 }}
{{- end -}}

{{- /* Environment of a process: production mode, its state and the files of its secrets. */ -}}
{{- define "kezek.env" -}}
- {name: KEZEK_MODE, value: production}
- {name: KEZEK_STATE_DIR, value: /var/lib/kezek}
- {name: HOME, value: /tmp}
{{- range .secrets }}
- {name: KEZEK_{{ . | replace "-" "_" | upper }}_FILE, value: /run/secrets/kezek/{{ . }}}
{{- end }}
{{- end -}}

{{- /* The secrets that a process needs, and no other. */ -}}
{{- define "kezek.secrets" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- if has "database-url" .secrets }}
      - secret:
          name: {{ required "database.existingSecret: name the secret with the URL of PostgreSQL" .root.Values.database.existingSecret }}
          items: [{key: {{ .root.Values.database.key }}, path: database-url}]
      {{- end }}
      {{- with without .secrets "database-url" }}
      - secret:
          name: {{ required "secrets.existingSecret: name the secret with agent-secret, ray-token, metrics-token and exporter-token" $.root.Values.secrets.existingSecret }}
          items:
            {{- range . }}
            - {key: {{ . }}, path: {{ . }}}
            {{- end }}
      {{- end }}
{{- end -}}

{{- define "kezek.ray.address" -}}
{{- if eq .Values.ray.mode "external" -}}
{{ required "ray.external.address: give host:port of the Ray that is there already" .Values.ray.external.address }}
{{- else -}}
{{ include "kezek.name" . }}-ray-head-svc.{{ .Release.Namespace }}.svc:6379
{{- end -}}
{{- end -}}

{{- define "kezek.agents" -}}
dns+http://{{ include "kezek.name" . }}-nodes.{{ .Release.Namespace }}.svc:7070
{{- end -}}

{{- define "kezek.exporters" -}}
{{- if .Values.exporter.enabled -}}
dns+http://{{ include "kezek.name" . }}-exporter.{{ .Release.Namespace }}.svc:9400
{{- end -}}
{{- end -}}

{{- /* Ports that Ray would choose by itself, fixed so that NetworkPolicies can name them. */ -}}
{{- define "kezek.ray.ports" -}}
node-manager-port: "6380"
object-manager-port: "6381"
runtime-env-agent-port: "6382"
dashboard-agent-grpc-port: "6383"
dashboard-agent-listen-port: "6384"
metrics-export-port: "6385"
min-worker-port: "10002"
max-worker-port: "10999"
{{- end -}}

{{- define "kezek.ray.env" -}}
- {name: RAY_AUTH_MODE, value: token}
- {name: RAY_AUTH_TOKEN_PATH, value: /run/secrets/kezek/ray-token}
- {name: RAY_TMPDIR, value: /tmp}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO, value: "0"}
{{- end -}}
