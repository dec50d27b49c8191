{{/* Which pods are injected: the selectors of the webhook, and of the policy's matchConstraints. */}}
{{- define "modelfleet.injectedPods" -}}
objectSelector:
  matchLabels: {modelfleet.io/inject: "true"}
  {{- if .Values.gateway.enabled }}
  # The gateway is such a pod to the operator, but has its sidecar by itself.
  matchExpressions:
    - {key: modelfleet.io/gateway, operator: DoesNotExist}
  {{- end }}
namespaceSelector:
  matchExpressions:
    {{- if .Values.watchNamespace }}
    - {key: kubernetes.io/metadata.name, operator: In, values: [{{ .Values.watchNamespace }}]}
    {{- end }}
    - key: kubernetes.io/metadata.name
      operator: NotIn
      values:
        - kube-system
        {{- if ne .Values.watchNamespace .Release.Namespace }}
        - {{ .Release.Namespace }}
        {{- end }}
        {{- range without .Values.injector.excludedNamespaces "kube-system" .Release.Namespace }}
        - {{ . }}
        {{- end }}
{{- end -}}
