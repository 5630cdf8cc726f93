{{/* Names, labels and choices that several files share. */}}

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

{{/* Cluster-wide names, one set for each release. */}}
{{- define "phase6.clusterName" -}}
phase6-operator-{{ .Release.Namespace }}
{{- end }}

{{- define "phase6.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "phase6.accessSecret" -}}
{{ .Values.access.existingSecret | default "phase6-access" }}
{{- end }}

{{/* NAME/KEY of the Secret with the database's URL; empty without a database. */}}
{{- define "phase6.databaseSecret" -}}
{{- if .Values.database.existingSecret -}}
{{ .Values.database.existingSecret }}/{{ .Values.database.key }}
{{- else if or .Values.database.url .Values.demo.enabled -}}
phase6-database/url
{{- end -}}
{{- end }}

{{/* NAME/KEY of the Secret with Redis' URL; empty without a Redis. */}}
{{- define "phase6.redisSecret" -}}
{{- if .Values.redis.existingSecret -}}
{{ .Values.redis.existingSecret }}/{{ .Values.redis.key }}
{{- else if or .Values.redis.url .Values.demo.enabled -}}
phase6-redis/url
{{- end -}}
{{- end }}

{{/* Not empty if the demo brings a database. */}}
{{- define "phase6.demoDatabase" -}}
{{- if and .Values.demo.enabled (not .Values.database.url) (not .Values.database.existingSecret) }}yes{{ end -}}
{{- end }}

{{/* The strictest pod security. */}}
{{- define "phase6.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "phase6.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What the operator does in the namespaces that it looks after. */}}
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
# Only to grant it: services look where the pods of their peers are.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
# These come and go with a resource's settings.
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
