{{/* Names, labels and settings shared by several templates. */}}

{{- define "phase6.labels" -}}
app.kubernetes.io/part-of: phase6
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "phase6.operatorLabels" -}}
app.kubernetes.io/name: phase6-operator
app.kubernetes.io/component: operator
{{- end }}

{{/* Name of cluster-scoped objects, unique per release. */}}
{{- define "phase6.clusterName" -}}
phase6-operator-{{ .Release.Namespace }}
{{- end }}

{{- define "phase6.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "phase6.accessSecret" -}}
{{ .Values.access.existingSecret | default "phase6-access" }}
{{- end }}

{{/* NAME/KEY of the Secret with the database URL; empty without a database. */}}
{{- define "phase6.databaseSecret" -}}
{{- if .Values.database.existingSecret -}}
{{ .Values.database.existingSecret }}/{{ .Values.database.key }}
{{- else if or .Values.database.url .Values.demo.enabled -}}
phase6-database/url
{{- end -}}
{{- end }}

{{/* NAME/KEY of the Secret with the Redis URL; empty without Redis. */}}
{{- define "phase6.redisSecret" -}}
{{- if .Values.redis.existingSecret -}}
{{ .Values.redis.existingSecret }}/{{ .Values.redis.key }}
{{- else if or .Values.redis.url .Values.demo.enabled -}}
phase6-redis/url
{{- end -}}
{{- end }}

{{/* Non-empty if the demo deploys a database. */}}
{{- define "phase6.demoDatabase" -}}
{{- if and .Values.demo.enabled (not .Values.database.url) (not .Values.database.existingSecret) }}yes{{ end -}}
{{- end }}

{{/* Security contexts that satisfy the restricted Pod Security Standard. */}}
{{- define "phase6.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "phase6.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Permissions of the operator in the namespaces that it manages. */}}
{{- define "phase6.rules" -}}
- apiGroups: [phase6.dev]
  resources: [phase6services]
  verbs: [get, list, watch]
- apiGroups: [phase6.dev]
  resources: [phase6services/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
# Required to grant it to the services, which watch the endpoints of their peers.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# Deletable, because the settings of a resource add and remove these objects.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
