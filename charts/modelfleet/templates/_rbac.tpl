{{/* Binds a role to an account of the release's namespace; both have the name in "part". Takes dict "part", "role" (its kind) and "account". */}}
{{- define "modelfleet.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .role }}Binding
metadata:
  {{- include "modelfleet.metadata" .part | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ .role }}, name: {{ .part.name }}}
subjects:
  - {kind: ServiceAccount, name: {{ .account }}, namespace: {{ .part.root.Release.Namespace }}}
{{- end -}}
