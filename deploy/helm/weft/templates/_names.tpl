{{/* What several templates say alike. The same objects are made by src/cli/install/*.ts; test/cluster/chart.test.ts compares. */}}

{{- define "weft.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Called with a list: the root, and the program. */}}
{{- define "weft.labels" -}}
app.kubernetes.io/name: weft
app.kubernetes.io/part-of: weft
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
{{- end -}}

{{/* What selects the pods of a program. Never changes: selectors of workloads cannot be changed. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: weft
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* Called with a list: the root, the port, and annotations of the user. */}}
{{- define "weft.annotations" -}}
{{- $scrape := dict -}}
{{- if (index . 0).Values.monitoring.annotations -}}
{{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/port" (index . 1 | toString) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- with mergeOverwrite $scrape (index . 2) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{- define "weft.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Called with a list: the path, and the named port. */}}
{{- define "weft.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: {{ index . 1 }}
timeoutSeconds: 5
{{- end -}}
