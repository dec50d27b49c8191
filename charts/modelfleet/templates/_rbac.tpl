{{/* Binds a role to an account; role and binding have the name in "part". Takes dict "part", "role" (its kind), "account" and, for an account elsewhere than in the release's namespace, "namespace". */}}
{{- define "modelfleet.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .role }}Binding
metadata:
  {{- include "modelfleet.metadata" .part | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ .role }}, name: {{ .part.name }}}
subjects:
  - {kind: ServiceAccount, name: {{ .account }}, namespace: {{ .namespace | default .part.root.Release.Namespace }}}
{{- end -}}
