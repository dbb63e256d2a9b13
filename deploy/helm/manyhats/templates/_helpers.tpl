{{- define "manyhats.name" -}}
{{- if contains "manyhats" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-manyhats" (.Release.Name | trunc 43 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "manyhats.selector" -}}
app.kubernetes.io/name: manyhats
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "manyhats.labels" -}}
{{ include "manyhats.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "manyhats.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{ .Values.image.repository }}{{ if hasPrefix "@" $tag }}{{ $tag }}{{ else }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "manyhats.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "manyhats.name" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "manyhats.keysSecret" -}}
{{ .Values.keys.existingSecret | default (printf "%s-keys" (include "manyhats.name" .)) }}
{{- end }}

{{- /* What cannot be true together ends the rendering with a reason. */ -}}
{{- define "manyhats.check" -}}
{{- $v := .Values -}}
{{- $own := or $v.keys.apiKeys $v.keys.adminKeys -}}
{{- if and $v.keys.existingSecret $own -}}
{{- fail "keys.existingSecret and keys.apiKeys or keys.adminKeys are both set: set one of them" -}}
{{- end -}}
{{- if and $v.keys.adminKeys (not $v.keys.apiKeys) -}}
{{- fail "keys.adminKeys is set without keys.apiKeys: whoever reaches the port might ask; set both" -}}
{{- end -}}
{{- if not (or $v.keys.existingSecret $own $v.keys.allowUnauthenticated) -}}
{{- fail "no keys: set keys.existingSecret or keys.apiKeys, or keys.allowUnauthenticated=true where whoever reaches the pods may do all" -}}
{{- end -}}
{{- $many := or (gt (int $v.replicas) 1) $v.autoscaling.enabled -}}
{{- $shared := and $v.database.existingSecret $v.blobs.url -}}
{{- if and $many (not $shared) -}}
{{- fail "more than one replica needs stores that they share: set database.existingSecret and blobs.url" -}}
{{- end -}}
{{- if ne (empty $v.database.existingSecret) (empty $v.blobs.url) -}}
{{- fail "database.existingSecret and blobs.url belong together: with one alone, a replica's own folder has half of the store" -}}
{{- end -}}
{{- if and $many $v.store.existingClaim -}}
{{- fail "store.existingClaim is one claim, and each replica needs a folder of its own" -}}
{{- end -}}
{{- if and (not $v.store.persistent) (not $shared) -}}
{{- fail "store.persistent=false loses all tasks with the pod, unless database.existingSecret and blobs.url are set" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is over autoscaling.maxReplicas (%d)" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- range $name := list "host" "port" "store" "api_keys" "admin_keys" "allow_unauthenticated" "database_url" "blobs_url" "blob_cache" "drain_delay" "drain_timeout" -}}
{{- if hasKey $v.settings $name -}}
{{- fail (printf "settings.%s: the chart sets it from a value of its own" $name) -}}
{{- end -}}
{{- end -}}
{{- end }}
