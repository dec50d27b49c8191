{{/* Names of the Secrets with the certificates. */}}
{{- define "modelfleet.capacitySecret" -}}
{{- if eq .Values.tls.source "existing" -}}
{{- required "tls.source is existing: set tls.existing.capacitySecret to the Secret with tls.crt, tls.key and ca.crt of the capacity service" .Values.tls.existing.capacitySecret -}}
{{- else -}}
{{- include "modelfleet.fullname" . }}-capacity-tls
{{- end -}}
{{- end -}}

{{- define "modelfleet.injectorSecret" -}}
{{- if eq .Values.tls.source "existing" -}}
{{- required "tls.source is existing: set tls.existing.injectorSecret to the Secret with tls.crt, tls.key and ca.crt of the injector" .Values.tls.existing.injectorSecret -}}
{{- else -}}
{{- include "modelfleet.fullname" . }}-injector-tls
{{- end -}}
{{- end -}}

{{- define "modelfleet.gatewaySecret" -}}
{{- if eq .Values.tls.source "existing" -}}
{{- required "tls.source is existing and gateway.enabled: set tls.existing.gatewaySecret to the Secret with tls.crt, tls.key and ca.crt of the gateway" .Values.tls.existing.gatewaySecret -}}
{{- else -}}
{{- include "modelfleet.fullname" . }}-gateway-tls
{{- end -}}
{{- end -}}

{{/* The Secrets with certificates that the chart has made, by service. */}}
{{- define "modelfleet.certificates" -}}
{{- $made := dict "capacity" (dict "secret" (include "modelfleet.capacitySecret" .) "namespace" .Release.Namespace) -}}
{{- if eq .Values.injector.mode "webhook" -}}
{{- $_ := set $made "injector" (dict "secret" (include "modelfleet.injectorSecret" .) "namespace" .Release.Namespace) -}}
{{- end -}}
{{- if .Values.gateway.enabled -}}
{{- $_ := set $made "gateway" (dict "secret" (include "modelfleet.gatewaySecret" .) "namespace" (include "modelfleet.gatewayNamespace" .)) -}}
{{- end -}}
{{- $made | toJson -}}
{{- end -}}

{{/* Names in the certificate of a service as JSON, first the one that clients verify. Takes dict "root", "service" and "namespace". */}}
{{- define "modelfleet.certificateNames" -}}
{{- $host := printf "%s-%s.%s.svc" (include "modelfleet.fullname" .root) .service .namespace -}}
{{- list $host (printf "%s.%s" $host .root.Values.clusterDomain) (printf "%s-%s" (include "modelfleet.fullname" .root) .service) | toJson -}}
{{- end -}}

{{/*
The authority that Helm makes. All templates of one run must see the same, so the first one that asks keeps it
in the root scope, which they share. What the cluster has is kept.
*/}}
{{- define "modelfleet.makeAuthority" -}}
{{- if not (hasKey . "authority") -}}
{{- $found := lookup "v1" "Secret" .Release.Namespace (printf "%s-ca" (include "modelfleet.fullname" .)) -}}
{{- if $found -}}
{{- $_ := set . "authority" (buildCustomCert (index $found.data "tls.crt") (index $found.data "tls.key")) -}}
{{- else -}}
{{- $_ := set . "authority" (genCAWithKey (printf "%s in %s" .Release.Name .Release.Namespace) 3653 (genPrivateKey "ecdsa")) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* PEM of the authority that sidecars trust, as far as it is known before the cluster has it; empty if not. */}}
{{- define "modelfleet.authority" -}}
{{- if eq .Values.tls.source "helm" -}}
{{- include "modelfleet.makeAuthority" . -}}
{{- .authority.Cert -}}
{{- else -}}
{{- .Values.tls.caBundle -}}
{{- end -}}
{{- end -}}

{{/* PEM of the authority that the API server trusts when it calls the injector; empty: cert-manager fills it in. */}}
{{- define "modelfleet.webhookAuthority" -}}
{{- if eq .Values.tls.source "existing" -}}
{{- required "tls.source is existing: set tls.caBundle to the PEM of the authority that signed the certificates, so that the API server trusts the injector" .Values.tls.caBundle -}}
{{- else if eq .Values.tls.source "helm" -}}
{{- include "modelfleet.authority" . -}}
{{- end -}}
{{- end -}}
