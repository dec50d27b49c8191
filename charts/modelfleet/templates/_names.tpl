{{/* The name of the release, which is that of everything in its namespace. */}}
{{- define "modelfleet.fullname" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* The name of objects outside any namespace. Releases for single namespaces stand side by side. */}}
{{- define "modelfleet.clusterName" -}}
{{- if .Values.watchNamespace -}}
{{- printf "%s-%s" (include "modelfleet.fullname" .) .Release.Namespace -}}
{{- else -}}
{{- include "modelfleet.fullname" . -}}
{{- end -}}
{{- end -}}

{{/* What a selector matches. Takes dict "root" and "component". */}}
{{- define "modelfleet.selectorLabels" -}}
app.kubernetes.io/name: modelfleet
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Takes dict "root" and "component". */}}
{{- define "modelfleet.labels" -}}
{{- $own := include "modelfleet.podLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- toYaml $own -}}
{{- end -}}

{{/* Labels of a pod, which a new version of the chart alone does not change. Takes dict "root", "component" and, for more of them, "moreLabels". */}}
{{- define "modelfleet.podLabels" -}}
{{- $own := include "modelfleet.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "modelfleet" -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- toYaml (merge $own (.moreLabels | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/* The annotations of an object, with their key; nothing if there are none. Takes dict "root" and, for more of them, "more". */}}
{{- define "modelfleet.annotations" -}}
{{- with merge (dict) (.more | default dict) .root.Values.commonAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/* The metadata of an object of the release. Takes dict "root", "component", "name" and, for more annotations, "more", and for objects outside any namespace "cluster". */}}
{{- define "modelfleet.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "modelfleet.labels" . | nindent 2 }}
{{- with include "modelfleet.annotations" . }}
{{ . }}
{{- end }}
{{- end -}}

{{/* The full name of an image. Takes dict "root" and "image". */}}
{{- define "modelfleet.image" -}}
{{- $image := printf "%s:%s" .image (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- with .root.Values.image.registry -}}
{{- printf "%s/%s" (trimSuffix "/" .) $image -}}
{{- else -}}
{{- $image -}}
{{- end -}}
{{- end -}}

{{/* The name by which sidecars know the capacity service. */}}
{{- define "modelfleet.capacityHost" -}}
{{- printf "%s-capacity.%s.svc" (include "modelfleet.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* Where the gateway runs. */}}
{{- define "modelfleet.gatewayNamespace" -}}
{{- .Values.gateway.namespace | default .Values.watchNamespace | default .Release.Namespace -}}
{{- end -}}

{{/* The address to listen on, as it stands before a port. */}}
{{- define "modelfleet.listen" -}}
{{- eq .Values.listenAddress "::" | ternary "[::]" .Values.listenAddress -}}
{{- end -}}
