{{- define "kezek.policy.head" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "kezek.name" .root }}-{{ .component }}
  labels: {{- include "kezek.labels" . | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  podSelector:
    matchLabels: {{- include "kezek.selector" . | nindent 6 }}
{{- end }}
{{- define "kezek.policy.pods" -}}
- podSelector:
    matchLabels: {{- include "kezek.selector" . | nindent 6 }}
{{- end }}
{{- define "kezek.policy.namespace" -}}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: {{ . }}}
{{- end }}
{{- define "kezek.policy.dns" -}}
- to:
    {{- include "kezek.policy.namespace" .Values.networkPolicy.dnsNamespace | nindent 4 }}
  ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}
{{- define "kezek.policy.database" -}}
- ports: [{port: {{ .Values.database.port }}, protocol: TCP}]
  {{- with .Values.database.cidrs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}
