{{/* A pod of `helm test` that runs a script with the operator's image. Takes dict "root", "component", "name", "script", "arguments" and "secret". */}}
{{- define "modelfleet.testPod" -}}
apiVersion: v1
kind: Pod
metadata:
  {{- $hooks := dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" }}
  {{- include "modelfleet.metadata" (merge (dict "more" $hooks) .) | nindent 2 }}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 120
  automountServiceAccountToken: false
  {{- include "modelfleet.podSecurity" . | nindent 2 }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.operator.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .root.Values.operator.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: test
      image: {{ include "modelfleet.image" (dict "root" .root "image" .root.Values.operator.image) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [python3, -c]
      args:
        - |
          {{- .root.Files.Get .script | nindent 10 }}
        {{- toYaml .arguments | nindent 8 }}
      resources:
        requests: {cpu: 10m, memory: 64Mi}
        limits: {memory: 256Mi}
      securityContext:
        {{- include "modelfleet.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: authority, mountPath: /var/run/secrets/modelfleet, readOnly: true}
  volumes:
    - name: authority
      secret:
        secretName: {{ .secret }}
        items: [{key: ca.crt, path: ca.crt}]
{{- end -}}
