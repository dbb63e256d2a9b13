// Made from docs/openapi.json by `make openapi`. Changes here are lost.

export interface paths {
    "/v1/tasks/{task}/predict": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Predict
         * @description Asks one task. `task` may name an alias or a version: `spam@canary`, `spam@3`.
         */
        post: operations["predict_v1_tasks__task__predict_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/predict": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Predict Many
         * @description Asks many tasks at once, or several tasks about the same input. One item's failure leaves the others alone.
         */
        post: operations["predict_many_v1_predict_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/versions/{number}/download": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Download
         * @description A version's files, as they were uploaded, in a tar.gz.
         */
        get: operations["download_v1_tasks__task__versions__number__download_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/versions": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Upload
         * @description Uploads an adapter as a new version: parts named `files`, or one `archive`.
         *
         *     With labelled `examples` it is evaluated first, and activated only where it is no worse than the stable version.
         */
        post: operations["upload_v1_tasks__task__versions_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List Tasks
         * @description All tasks by name, a page at a time, or those with `search` in their names.
         */
        get: operations["list_tasks_v1_tasks_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Show Task
         * @description One task with its versions, aliases and settings.
         */
        get: operations["show_task_v1_tasks__task__get"];
        /**
         * Configure Task
         * @description Sets what is not weights.
         */
        put: operations["configure_task_v1_tasks__task__put"];
        post?: never;
        /**
         * Delete Task
         * @description Takes a task away; requests in flight finish.
         */
        delete: operations["delete_task_v1_tasks__task__delete"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/versions/{number}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Show Version
         * @description One version.
         */
        get: operations["show_version_v1_tasks__task__versions__number__get"];
        put?: never;
        post?: never;
        /**
         * Delete Version
         * @description Removes a version that no alias points at.
         */
        delete: operations["delete_version_v1_tasks__task__versions__number__delete"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/aliases/{alias}": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Show Alias
         * @description One alias: where it points, its shadow and its canary, and what was counted of them.
         */
        get: operations["show_alias_v1_tasks__task__aliases__alias__get"];
        /**
         * Set Alias
         * @description Points an alias at one version, or at several by weight; with what runs beside them, and when a canary ends.
         */
        put: operations["set_alias_v1_tasks__task__aliases__alias__put"];
        post?: never;
        /**
         * Delete Alias
         * @description Removes an alias other than `stable`.
         */
        delete: operations["delete_alias_v1_tasks__task__aliases__alias__delete"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/rollback": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Rollback
         * @description Points `stable` back at what it pointed at before.
         */
        post: operations["rollback_v1_tasks__task__rollback_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/load": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Load
         * @description Loads the task's adapter into a slot; answers when it is there.
         */
        post: operations["load_v1_tasks__task__load_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/unload": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Unload
         * @description Gives back the memory of the task's adapters, once no request uses them.
         */
        post: operations["unload_v1_tasks__task__unload_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/lift": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Lift
         * @description Has all versions of a task asked again, and share batches, that were quarantined for their faults.
         */
        post: operations["lift_v1_tasks__task__lift_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/pin": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Pin
         * @description Keeps the task's adapter in a slot.
         */
        post: operations["pin_v1_tasks__task__pin_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/tasks/{task}/unpin": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Unpin
         * @description Lets the task's adapter be evicted again.
         */
        post: operations["unpin_v1_tasks__task__unpin_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/imports": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * List Imports
         * @description The folders in the store by name, a page at a time: imported, waiting, or refused with the reason.
         *
         *     A key of some tasks sees those of these tasks alone.
         */
        get: operations["list_imports_v1_imports_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/overview": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Overview
         * @description The server at one look: its backbone, its memory, and what waits.
         */
        get: operations["overview_v1_overview_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/traffic": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Traffic
         * @description Requests and times of the last five minutes, by task; tasks without requests are left out.
         */
        get: operations["traffic_v1_traffic_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/batches": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /**
         * Batches
         * @description The last batches: which tasks and methods shared each pass through the model.
         */
        get: operations["batches_v1_batches_get"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/v1/chat/completions": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        get?: never;
        put?: never;
        /**
         * Chat
         * @description Answers a conversation, by the task's chat template or the tokenizer's.
         */
        post: operations["chat_v1_chat_completions_post"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /** @description `PUT /v1/tasks/{task}/aliases/{alias}`: either `version` or `split`. What is left out of the rest is no more. */
        AliasBody: {
            version?: number | null;
            split?: components["schemas"]["SplitTarget"][] | null;
            affinity?: string | null;
            shadow?: components["schemas"]["ShadowBody"] | null;
            canary?: components["schemas"]["CanaryBody"] | null;
        };
        /** @description An alias. `version`: the one that it points at, the largest of a `split`. */
        AliasState: {
            affinity: string;
            since: number | null;
            shadow: components["schemas"]["ShadowState"] | null;
            canary: components["schemas"]["CanaryState"] | null;
            withdrawn: components["schemas"]["WithdrawnBody"] | null;
            task: string;
            alias: string;
            version: number;
            split: components["schemas"]["AliasTarget"][] | null;
        };
        /** @description One version of a split, and its share of the requests. */
        AliasTarget: {
            version: number;
            weight: number;
        };
        /** @description The pass that answered, and how many shared it. */
        BatchBody: {
            id: number;
            sequences: number;
            tasks: number;
            methods: string[];
        };
        /** @description The last batches, the newest first. */
        BatchList: {
            data: components["schemas"]["RecentBatch"][];
        };
        /** @description A task of a batch, and how many sequences were its. */
        BatchTask: {
            task: string;
            sequences: number;
        };
        /** @description Tokens of the prompts that were found in the cache. */
        CachedTokens: {
            cached_tokens: number;
        };
        /**
         * @description When a version of the split is withdrawn: a bound is passed by at least `min_requests` of the last
         *     `window_seconds`. At least one bound is given.
         */
        CanaryBody: {
            version: number;
            max_error_rate?: (number) | null;
            max_latency_ratio?: (number) | null;
            max_p95_ms?: (number) | null;
            /** @default 100 */
            min_requests?: number;
            /** @default 300 */
            window_seconds?: number;
        };
        /** @description A canary, its bounds, and the requests of the last `window_seconds` that it and the other versions answered. */
        CanaryState: {
            version: number;
            max_error_rate: number | null;
            max_latency_ratio: number | null;
            max_p95_ms: number | null;
            min_requests: number;
            window_seconds: number;
            canary: components["schemas"]["SideState"];
            others: components["schemas"]["SideState"];
        };
        /** @description `POST /v1/chat/completions`. */
        ChatBody: {
            model: string;
            stream?: boolean | null;
            timeout?: number | null;
            stream_options?: components["schemas"]["StreamOptions"] | null;
            n?: number | null;
            best_of?: number | null;
            max_tokens?: number | null;
            prompt_logprobs?: number | null;
            guided_json?: unknown;
            json_schema?: unknown;
            grammar?: unknown;
            structured_outputs?: {
                [key: string]: unknown;
            } | null;
            messages: ({
                role: string;
                content?: string | {
                    [key: string]: unknown;
                }[] | null;
            } & {
                [key: string]: unknown;
            })[];
            max_completion_tokens?: number | null;
            logprobs?: boolean | null;
            top_logprobs?: number | null;
            add_generation_prompt?: boolean | null;
            continue_final_message?: boolean | null;
            add_special_tokens?: boolean | null;
            chat_template_kwargs?: {
                [key: string]: unknown;
            } | null;
            documents?: {
                [key: string]: unknown;
            }[] | null;
            tools?: unknown[] | null;
            tool_choice?: string | {
                [key: string]: unknown;
            } | null;
            functions?: unknown[] | null;
            function_call?: string | {
                [key: string]: unknown;
            } | null;
            temperature?: number;
            top_p?: number;
            top_k?: number;
            min_p?: number;
            stop?: string | string[];
            presence_penalty?: number;
            frequency_penalty?: number;
            repetition_penalty?: number;
            logit_bias?: {
                [key: string]: number;
            };
            seed?: number | null;
            ignore_eos?: boolean;
            min_tokens?: number;
            stop_token_ids?: number[];
            bad_words?: string[];
            allowed_token_ids?: number[] | null;
            truncate_prompt_tokens?: number | null;
            /** @enum {string} */
            truncation_side?: "left" | "right";
            skip_special_tokens?: boolean;
            response_format?: {
                [key: string]: unknown;
            } | null;
            regex?: string | null;
            ignore_eos_token?: boolean;
            include_stop_str_in_output?: boolean;
            no_stop_trim?: boolean;
            min_new_tokens?: number;
            guided_regex?: string | null;
            guided_choice?: string[] | null;
            guided_grammar?: string | null;
            ebnf?: string | null;
        } & {
            [key: string]: unknown;
        };
        /** @description One answer. */
        ChatChoice: {
            index: number;
            message: components["schemas"]["ChatMessage"];
            finish_reason: ("stop" | "length") | null;
            logprobs: components["schemas"]["ChatLogprobs"] | null;
        };
        /** @description A part of one answer. */
        ChatChunkChoice: {
            index: number;
            delta: components["schemas"]["ChatDelta"];
            finish_reason: ("stop" | "length") | null;
            logprobs: components["schemas"]["ChatLogprobs"] | null;
        };
        /** @description The answers to a conversation, `n` of them. */
        ChatCompletion: {
            id: string;
            created: number;
            model: string;
            system_fingerprint: string;
            /** @constant */
            object: "chat.completion";
            choices: components["schemas"]["ChatChoice"][];
            usage: components["schemas"]["GenerationUsage"];
            prompt_logprobs?: ({
                [key: string]: components["schemas"]["PromptToken"];
            } | null)[] | null;
        };
        /** @description With `stream`, each event; the last has no `choices`, and comes with `stream_options.include_usage`. */
        ChatCompletionChunk: {
            id: string;
            created: number;
            model: string;
            system_fingerprint: string;
            /** @constant */
            object: "chat.completion.chunk";
            choices: components["schemas"]["ChatChunkChoice"][];
            usage?: components["schemas"]["GenerationUsage"] | null;
        };
        /** @description What a token adds. */
        ChatDelta: {
            role?: "assistant" | null;
            content?: string | null;
        };
        /** @description A token. */
        ChatEntry: {
            token: string;
            logprob: number | null;
            bytes: number[];
        };
        /** @description The text's tokens. */
        ChatLogprobs: {
            content: components["schemas"]["ChatToken"][];
        };
        /** @description What the task says. */
        ChatMessage: {
            /** @constant */
            role: "assistant";
            content: string;
        };
        /** @description A token, and the likeliest in its place. */
        ChatToken: {
            token: string;
            logprob: number | null;
            bytes: number[];
            top_logprobs: components["schemas"]["ChatEntry"][];
        };
        /** @description Of kind `classify`: the best label and the labels' scores. `labels`: with `multi_label`, those from 0.5 on. */
        ClassifyOutput: {
            label: string;
            score: number;
            scores: {
                [key: string]: number;
            };
            labels?: string[] | null;
            logits?: number[] | null;
        };
        /** @description `top_k`: only the k best labels in `scores`. `multi_label`: each label independently (sigmoid). */
        ClassifyParameters: {
            truncate?: boolean | null;
            /** @default false */
            logits?: boolean;
            top_k?: number | null;
            /** @default false */
            multi_label?: boolean;
        };
        /** @description Of a task of kind `classify`. */
        ClassifyPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "classify";
            outputs: components["schemas"]["ClassifyOutput"][];
        };
        /** @description Of kind `embed`: a vector; with `pooling: none` one for each token. */
        EmbedOutput: {
            embedding: number[] | number[][];
        };
        /**
         * @description Default to the task's pooling, normalisation and default prompt.
         *
         *     `pooling`: one, or several whose vectors are concatenated; `none` returns every token's state. `prompt` is put
         *     before the text, `prompt_name` names one of the task's; an empty prompt is none.
         */
        EmbedParameters: {
            truncate?: boolean | null;
            pooling?: "none" | ("mean" | "cls" | "last" | "max" | "mean_sqrt_len" | "weightedmean") | ("mean" | "cls" | "last" | "max" | "mean_sqrt_len" | "weightedmean")[] | null;
            normalize?: boolean | null;
            prompt?: string | null;
            prompt_name?: string | null;
        };
        /** @description Of a task of kind `embed`. */
        EmbedPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "embed";
            outputs: components["schemas"]["EmbedOutput"][];
        };
        /** @description The body of every error. */
        ErrorBody: {
            error: components["schemas"]["ErrorInside"];
        };
        /** @description What went wrong. `code` is the status; `param` names the field or file at fault, where there is one. */
        ErrorInside: {
            message: string;
            type: string;
            param: string | null;
            code: number;
        };
        /**
         * @description How good a version was on labelled examples beside the stable one. `value`, `baseline`: of `metric`, of either;
         *     null where there is none. `created`: unix seconds. `activated`: whether `alias` points at the version since;
         *     `reason`: why, or why not.
         */
        EvaluationBody: {
            metric: string;
            value: number | null;
            baseline: number | null;
            baseline_version: number | null;
            examples: number;
            max_drop: number;
            alias: string;
            activated: boolean;
            reason: string;
            created: number;
        };
        /** @description An item that failed, in its place. */
        FailedPrediction: {
            task: string;
            error: components["schemas"]["ErrorInside"];
        };
        /** @description A token in a mask's place. */
        Fill: {
            text: string;
            token: number;
            score: number;
        };
        /** @description Of kind `fill`: the text with the likeliest token in each mask's place. */
        FillOutput: {
            text: string;
            masks: components["schemas"]["FilledMask"][];
        };
        /** @description `top_k`: the number of tokens for each mask. */
        FillParameters: {
            truncate?: boolean | null;
            /** @default 5 */
            top_k?: number;
        };
        /** @description Of a task of kind `fill`. */
        FillPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "fill";
            outputs: components["schemas"]["FillOutput"][];
        };
        /** @description A mask's place in the text, and its likeliest tokens. */
        FilledMask: {
            start: number;
            end: number;
            fills: components["schemas"]["Fill"][];
        };
        /** @description An answer within a context. */
        FoundSpan: {
            answer: string;
            start: number;
            end: number;
            score: number;
        };
        /** @description Of kind `generate`. `choices`: where `n` texts are requested, all of them. */
        GenerateOutput: {
            text: string;
            finish_reason: ("stop" | "length") | null;
            tokens: number[];
            logprobs?: components["schemas"]["TokenLogprob"][] | null;
            prompt_logprobs?: components["schemas"]["TokenLogprob"][] | null;
            choices?: components["schemas"]["GeneratedOutput"][] | null;
        };
        /**
         * @description See docs/generation.md. `temperature` 0 selects the likeliest token; `top_k` 0 keeps all.
         *
         *     `max_new_tokens` may be 0 where `prompt_logprobs` is set. `stream`: the answer comes in chunks (see the web
         *     layer). `include_stop`: the stop string, or the stop token that the request names, stays in the text. An
         *     integer may be written as 3.0; null is as if a parameter were not given.
         */
        GenerateParameters: {
            truncate?: boolean | null;
            /** @default 64 */
            max_new_tokens?: number;
            /** @default 0 */
            min_tokens?: number;
            /** @default 0 */
            temperature?: number;
            /** @default 0 */
            top_k?: number;
            /** @default 1 */
            top_p?: number;
            /** @default 0 */
            min_p?: number;
            /** @default 1 */
            repetition_penalty?: number;
            /** @default 0 */
            presence_penalty?: number;
            /** @default 0 */
            frequency_penalty?: number;
            logit_bias?: {
                [key: string]: number;
            };
            allowed_token_ids?: number[] | null;
            bad_words?: string[];
            seed?: number | null;
            stop?: string | string[];
            stop_token_ids?: number[];
            /** @default false */
            include_stop?: boolean;
            /** @default false */
            ignore_eos?: boolean;
            /** @default true */
            skip_special_tokens?: boolean;
            /** @default 1 */
            n?: number;
            logprobs?: number | null;
            prompt_logprobs?: number | null;
            truncate_prompt_tokens?: number | null;
            /**
             * @default left
             * @enum {string}
             */
            truncation_side?: "left" | "right";
            response_format?: {
                [key: string]: unknown;
            } | null;
            regex?: string | null;
            choice?: string[] | null;
            grammar?: string | null;
            /** @default false */
            stream?: boolean;
        };
        /** @description Of a task of kind `generate`. */
        GeneratePrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "generate";
            outputs: components["schemas"]["GenerateOutput"][];
        };
        /** @description A text. `tokens`: the new ones. */
        GeneratedOutput: {
            text: string;
            finish_reason: ("stop" | "length") | null;
            tokens: number[];
            logprobs?: components["schemas"]["TokenLogprob"][] | null;
            prompt_logprobs?: components["schemas"]["TokenLogprob"][] | null;
        };
        /** @description The counts. A prompt's tokens count once, however many texts follow it. */
        GenerationUsage: {
            prompt_tokens: number;
            completion_tokens: number;
            total_tokens: number;
            prompt_tokens_details: components["schemas"]["CachedTokens"];
        };
        /** @description A folder in the store. `reason`: why it waits or was refused, or what the reader warns of. */
        ImportBody: {
            folder: string;
            /** @enum {string} */
            status: "taken_in" | "waiting" | "refused";
            task: string | null;
            version: number | null;
            reason: string | null;
        };
        /** @description A page of the folders; `next_page_token` is null on the last. */
        ImportList: {
            data: components["schemas"]["ImportBody"][];
            next_page_token: string | null;
        };
        /** @description A token and its best label. */
        LabelledToken: {
            text: string;
            start: number;
            end: number;
            label: string;
            score: number;
        };
        /** @description Milliseconds in the model, of the last requests that both versions answered. */
        LatencyBody: {
            p50_ms: number;
            p95_ms: number;
        };
        /** @description A token that could have stood in one's place. */
        LikelyToken: {
            token: number;
            text: string;
            logprob: number | null;
        };
        /** @description Tokens that belong together. */
        OutputEntity: {
            entity_group: string;
            word: string;
            start: number;
            end: number;
            score: number;
        };
        /** @description The server at one look. */
        OverviewBody: {
            backbone: string;
            device: string;
            version: string;
            uptime_seconds: number;
            tasks: number;
            slots: components["schemas"]["TierBody"];
            memory: components["schemas"]["TierBody"];
            inputs_waiting: number;
            loads: number;
            evictions: number;
            quarantined_versions: number;
        };
        /** @description `POST /v1/tasks/{task}/predict`. */
        PredictBody: {
            inputs: string | components["schemas"]["TextInput"] | (string | components["schemas"]["TextInput"])[];
            parameters?: components["schemas"]["ClassifyParameters"] | components["schemas"]["TokensParameters"] | components["schemas"]["RegressParameters"] | components["schemas"]["RerankParameters"] | components["schemas"]["SpanParameters"] | components["schemas"]["EmbedParameters"] | components["schemas"]["GenerateParameters"] | components["schemas"]["FillParameters"];
            affinity?: string | null;
            timeout?: number | null;
        };
        /** @description One item of `requests`. */
        PredictItem: {
            inputs: string | components["schemas"]["TextInput"] | (string | components["schemas"]["TextInput"])[];
            parameters?: components["schemas"]["ClassifyParameters"] | components["schemas"]["TokensParameters"] | components["schemas"]["RegressParameters"] | components["schemas"]["RerankParameters"] | components["schemas"]["SpanParameters"] | components["schemas"]["EmbedParameters"] | components["schemas"]["GenerateParameters"] | components["schemas"]["FillParameters"];
            affinity?: string | null;
            task: string;
        };
        /** @description `POST /v1/predict`: either `requests`, or `tasks` with `inputs`. */
        PredictManyBody: {
            requests?: components["schemas"]["PredictItem"][] | null;
            tasks?: string[] | null;
            inputs?: string | components["schemas"]["TextInput"] | (string | components["schemas"]["TextInput"])[] | null;
            parameters?: components["schemas"]["ClassifyParameters"] | components["schemas"]["TokensParameters"] | components["schemas"]["RegressParameters"] | components["schemas"]["RerankParameters"] | components["schemas"]["SpanParameters"] | components["schemas"]["EmbedParameters"] | components["schemas"]["GenerateParameters"] | components["schemas"]["FillParameters"];
            affinity?: string | null;
            timeout?: number | null;
        };
        /** @description The answer of one task, an output for each input in their order; `kind` says which outputs these are. */
        Prediction: components["schemas"]["ClassifyPrediction"] | components["schemas"]["TokensPrediction"] | components["schemas"]["RegressPrediction"] | components["schemas"]["RerankPrediction"] | components["schemas"]["SpanPrediction"] | components["schemas"]["EmbedPrediction"] | components["schemas"]["GeneratePrediction"] | components["schemas"]["FillPrediction"];
        /**
         * @description With `stream`: one token of the output for `input`. Behind the last one the whole answer follows, then `[DONE]`.
         *
         *     `choice`: with `n`, which of an input's texts.
         */
        PredictionEvent: {
            input: number;
            text: string;
            tokens: number[];
            finish_reason: ("stop" | "length") | null;
            choice?: number | null;
            logprobs?: components["schemas"]["TokenLogprob"][] | null;
        };
        /** @description An answer for each item, in the order asked. */
        PredictionList: {
            results: (components["schemas"]["Prediction"] | components["schemas"]["FailedPrediction"])[];
        };
        /** @description vLLM's values of a prompt's token. */
        PromptToken: {
            logprob: number | null;
            rank: number;
            decoded_token: string;
        };
        /** @description One pass through the model. `tasks` names the largest; `task_count` counts all. */
        RecentBatch: {
            id: number;
            ended: number;
            sequences: number;
            tokens: number;
            compute_ms: number;
            methods: string[];
            task_count: number;
            tasks: components["schemas"]["BatchTask"][];
        };
        /** @description Of kind `regress`. */
        RegressOutput: {
            value: number;
        };
        /** @description No further parameters. */
        RegressParameters: {
            truncate?: boolean | null;
        };
        /** @description Of a task of kind `regress`. */
        RegressPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "regress";
            outputs: components["schemas"]["RegressOutput"][];
        };
        /** @description Of kind `rerank`: how relevant a document is to a query. */
        RerankOutput: {
            score: number;
        };
        /** @description `raw_scores`: the head's output instead of its sigmoid. */
        RerankParameters: {
            truncate?: boolean | null;
            /** @default false */
            raw_scores?: boolean;
        };
        /** @description Of a task of kind `rerank`. */
        RerankPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "rerank";
            outputs: components["schemas"]["RerankOutput"][];
        };
        /** @description `POST /v1/tasks/{task}/rollback`: back to the version before, or to `version`. */
        RollbackBody: {
            version?: number | null;
        };
        /**
         * @description What an alias has besides its versions. `affinity`: the header whose value keeps a version. `since`: unix
         *     seconds, when counting began; null before the first request. `withdrawn`: the canary that passed a bound last.
         */
        RolloutState: {
            affinity: string;
            since: number | null;
            shadow: components["schemas"]["ShadowState"] | null;
            canary: components["schemas"]["CanaryState"] | null;
            withdrawn: components["schemas"]["WithdrawnBody"] | null;
        };
        /** @description `PUT /v1/tasks/{task}`. What is given replaces what was; null goes back to the adapter's own. */
        SettingsBody: {
            kind?: string | null;
            labels?: string[] | null;
            template?: string | null;
            max_tokens?: number | null;
            overflow?: string | null;
            pooling?: string | string[] | null;
            normalize?: boolean | null;
            prompts?: {
                [key: string]: string;
            } | null;
            default_prompt_name?: string | null;
            include_prompt?: boolean | null;
            lower_case?: boolean | null;
            system_prompt?: string | null;
            chat_template?: string | null;
            stop_token_ids?: number[] | null;
            defaults?: {
                [key: string]: unknown;
            } | null;
            priority?: number | null;
            pinned?: boolean | null;
        };
        /**
         * @description A version that is asked a `fraction` of the requests, after their answers. `tolerance`: how far two numbers, or
         *     two vectors' cosine from 1, may differ and still agree.
         */
        ShadowBody: {
            version: number;
            fraction: number;
            /** @default 0.05 */
            tolerance?: number;
        };
        /**
         * @description A shadow, and what became of the requests that it was to be asked. `skipped`: the server was busy. `agreed`,
         *     `differed`, `not_compared`: inputs; the last were sampled without a seed. `error`: of the last that failed. `main`,
         *     `shadow`: latencies, once there are any.
         */
        ShadowState: {
            version: number;
            fraction: number;
            tolerance: number;
            answered: number;
            failed: number;
            skipped: number;
            agreed: number;
            differed: number;
            not_compared: number;
            error: string | null;
            main: components["schemas"]["LatencyBody"] | null;
            shadow: components["schemas"]["LatencyBody"] | null;
        };
        /** @description Requests within the window. `faults`: those that failed by the server's fault. */
        SideState: {
            requests: number;
            faults: number;
            error_rate: number | null;
            p95_ms: number | null;
        };
        /** @description Of kind `span`: the best answer. `answers`: with `top_k`, the best ones. */
        SpanOutput: {
            answer: string;
            start: number;
            end: number;
            score: number;
            answers?: components["schemas"]["FoundSpan"][] | null;
            logits?: number[][] | null;
        };
        /** @description `top_k`: the number of answers, the best first. `max_answer_tokens`: longer ones are not considered. */
        SpanParameters: {
            truncate?: boolean | null;
            top_k?: number | null;
            /** @default 30 */
            max_answer_tokens?: number;
            /** @default false */
            logits?: boolean;
        };
        /** @description Of a task of kind `span`. */
        SpanPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "span";
            outputs: components["schemas"]["SpanOutput"][];
        };
        /** @description One version of an alias's split. */
        SplitTarget: {
            version: number;
            weight: number;
        };
        /** @description What a stream has besides its text. */
        StreamOptions: {
            include_usage?: boolean | null;
        } & {
            [key: string]: unknown;
        };
        /**
         * @description A task with everything that is known about it. The bare backbone, `base`, has no settings that a task has
         *     besides; `sha256`, `backbone`, `kinds` and `chats` are its alone. `kinds`: those that it answers. `chats`: whether
         *     its tokenizer has a chat template, for tasks without one of their own. `rollouts`: of the aliases that have more
         *     than versions.
         */
        TaskBody: {
            name: string;
            kind: string | null;
            method: string | null;
            version: number | null;
            /** @enum {string} */
            residency: "disk" | "memory" | "slot";
            bytes: number;
            quarantined?: string | null;
            damaged?: boolean | null;
            alone?: string | null;
            versions: components["schemas"]["TaskVersion"][];
            aliases: {
                [key: string]: number | components["schemas"]["AliasTarget"][];
            };
            labels: string[] | null;
            template: string | null;
            max_tokens: number;
            /** @enum {string} */
            overflow: "error" | "truncate";
            pooling: string | string[] | null;
            normalize: boolean | null;
            prompts: {
                [key: string]: string;
            } | null;
            default_prompt_name: string | null;
            include_prompt: boolean | null;
            lower_case: boolean | null;
            chat_template?: string | null;
            system_prompt?: string | null;
            stop_token_ids?: number[] | null;
            defaults?: {
                [key: string]: unknown;
            } | null;
            priority?: number | null;
            pinned?: boolean | null;
            warnings?: string[] | null;
            created?: number | null;
            sha256?: string | null;
            backbone?: string | null;
            kinds?: string[] | null;
            chats?: boolean | null;
            rollouts?: {
                [key: string]: components["schemas"]["RolloutState"];
            } | null;
        };
        /** @description A page of the tasks; `next_page_token` is null on the last. */
        TaskList: {
            data: components["schemas"]["TaskSummary"][];
            next_page_token: string | null;
        };
        /**
         * @description A task as the list has it; without a version, `kind`, `method` and `version` are null. `quarantined`, `damaged`
         *     and `alone` are as a version has them.
         */
        TaskSummary: {
            name: string;
            kind: string | null;
            method: string | null;
            version: number | null;
            /** @enum {string} */
            residency: "disk" | "memory" | "slot";
            bytes: number;
            quarantined?: string | null;
            damaged?: boolean | null;
            alone?: string | null;
        };
        /** @description The same of one task. */
        TaskTraffic: {
            requests: number[];
            failed: number[];
            mean_ms: (number | null)[];
            max_ms: (number | null)[];
            task: string;
        };
        /**
         * @description One version. `created`: unix seconds. `card`: its README.md; `curves`: of its training, where the card has them,
         *     of a version asked for by itself. `quarantined`: why it is not asked; `damaged`: whether its files are the reason,
         *     else its faults, which `lift` forgets; `alone`: why it shares no batch. `evaluation`: on labelled examples.
         */
        TaskVersion: {
            version: number;
            sha256: string;
            method: string;
            kind: string;
            rank: number | null;
            matched_tensors: number;
            bytes: number;
            base: string | null;
            created: number;
            warnings: string[];
            card: string | null;
            curves?: components["schemas"]["TrainingHistory"] | null;
            quarantined?: string | null;
            damaged?: boolean | null;
            evaluation?: components["schemas"]["EvaluationBody"] | null;
            alone?: string | null;
        };
        /** @description A text, or a pair of them (question and context, premise and hypothesis). */
        TextInput: {
            text: string;
            text_pair?: string | null;
        };
        /** @description Adapters in one tier of the cache, and their bytes. */
        TierBody: {
            adapters: number;
            bytes: number;
            bytes_limit: number;
        };
        /** @description Milliseconds in the queue, for loading the adapter, and in the model. */
        Timing: {
            queue_ms: number;
            load_ms: number;
            compute_ms: number;
        };
        /** @description Tokens that were read and written. */
        TokenCounts: {
            input_tokens: number;
            output_tokens: number;
        };
        /** @description A token with its logprob, and the likeliest in its place. `rank`: of a prompt's token. */
        TokenLogprob: {
            token: number;
            text: string;
            logprob: number | null;
            top: components["schemas"]["LikelyToken"][];
            rank?: number | null;
        };
        /** @description Of kind `tokens`. `logits`: of every input token, special tokens included. */
        TokensOutput: {
            tokens: components["schemas"]["LabelledToken"][];
            entities: components["schemas"]["OutputEntity"][];
            logits?: number[][] | null;
        };
        /** @description `aggregation`: how tokens become entities (see `_entities`). */
        TokensParameters: {
            truncate?: boolean | null;
            /** @default false */
            logits?: boolean;
            /**
             * @default simple
             * @enum {string}
             */
            aggregation?: "none" | "simple" | "first" | "average" | "max" | "word";
        };
        /** @description Of a task of kind `tokens`. */
        TokensPrediction: {
            id: string;
            task: string;
            version: number;
            sha256: string;
            usage: components["schemas"]["TokenCounts"];
            timing: components["schemas"]["Timing"];
            batch: components["schemas"]["BatchBody"];
            warnings?: components["schemas"]["WarningBody"][] | null;
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            kind: "tokens";
            outputs: components["schemas"]["TokensOutput"][];
        };
        /** @description The last minutes. `end`: when the newest interval, which is not over yet, will end (Unix, seconds). */
        TrafficBody: {
            interval_seconds: number;
            end: number;
            total: components["schemas"]["TrafficSeries"];
            data: components["schemas"]["TaskTraffic"][];
        };
        /** @description One number for each interval, the oldest first; milliseconds are null where nothing was answered. */
        TrafficSeries: {
            requests: number[];
            failed: number[];
            mean_ms: (number | null)[];
            max_ms: (number | null)[];
        };
        /**
         * @description The curves of a training.
         *
         *     `losses`: at each of `steps` the mean loss over the steps since the one before. `epoch_losses`: the mean over each
         *     of `epochs`; `scores`: the metric on the validation data behind it, null where it was no number.
         */
        TrainingHistory: {
            metric: string;
            more_is_better: boolean;
            steps: number[];
            losses: number[];
            epochs: number[];
            epoch_losses: number[];
            scores: (number | null)[];
            best_epoch: number;
        };
        /**
         * @description The version that holds what was uploaded. `kind`: what the task answers with it. `curves`: of its training, where
         *     its card has them. `activated`, `evaluation`: of an upload with labelled examples.
         */
        UploadedBody: {
            version: number;
            sha256: string;
            method: string;
            kind: string;
            rank: number | null;
            matched_tensors: number;
            bytes: number;
            task: string;
            aliases: {
                [key: string]: number | components["schemas"]["AliasTarget"][];
            };
            warnings?: string[] | null;
            curves?: components["schemas"]["TrainingHistory"] | null;
            activated?: boolean | null;
            evaluation?: components["schemas"]["EvaluationBody"] | null;
        };
        /** @description What an answer warns of. `input`: the index of the input. */
        WarningBody: {
            input: number;
            code: string;
            message: string;
        };
        /** @description A canary that was taken out of its split. `at`: unix seconds. */
        WithdrawnBody: {
            version: number;
            reason: string;
            at: number;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    predict_v1_tasks__task__predict_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["PredictBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Prediction"];
                    "text/event-stream": components["schemas"]["PredictionEvent"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    predict_many_v1_predict_post: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["PredictManyBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["PredictionList"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    download_v1_tasks__task__versions__number__download_get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                number: number;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/gzip": Blob;
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    upload_v1_tasks__task__versions_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "multipart/form-data": {
                    files?: Blob[];
                    /**
                     * Format: binary
                     * @description zip or tar.gz
                     */
                    archive?: Blob;
                    /** @description JSON of the task's settings */
                    task?: string;
                    /** @default stable */
                    alias?: string;
                    /** @default true */
                    activate?: boolean;
                    /** @description labelled examples as JSON lines: the version is activated only if it is no worse on them than the stable one */
                    examples?: string;
                    /** @description JSON: max_drop, metric */
                    gate?: string;
                };
            };
        };
        responses: {
            /** @description The same files were there: the version that has them. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["UploadedBody"];
                };
            };
            /** @description Successful Response */
            201: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["UploadedBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    list_tasks_v1_tasks_get: {
        parameters: {
            query?: {
                limit?: number;
                page_token?: string | null;
                /** @description a part of the name, in whatever case */
                search?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskList"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    show_task_v1_tasks__task__get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    configure_task_v1_tasks__task__put: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["SettingsBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    delete_task_v1_tasks__task__delete: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    show_version_v1_tasks__task__versions__number__get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                number: number;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskVersion"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    delete_version_v1_tasks__task__versions__number__delete: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                number: number;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            204: {
                headers: {
                    [name: string]: unknown;
                };
                content?: never;
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    show_alias_v1_tasks__task__aliases__alias__get: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                alias: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AliasState"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    set_alias_v1_tasks__task__aliases__alias__put: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                alias: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["AliasBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    delete_alias_v1_tasks__task__aliases__alias__delete: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
                alias: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    rollback_v1_tasks__task__rollback_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["RollbackBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    load_v1_tasks__task__load_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskSummary"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    unload_v1_tasks__task__unload_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskSummary"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    lift_v1_tasks__task__lift_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskSummary"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    pin_v1_tasks__task__pin_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    unpin_v1_tasks__task__unpin_post: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                task: string;
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TaskBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    list_imports_v1_imports_get: {
        parameters: {
            query?: {
                limit?: number;
                page_token?: string | null;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ImportList"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    overview_v1_overview_get: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["OverviewBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    traffic_v1_traffic_get: {
        parameters: {
            query?: {
                /** @description these tasks, instead of the busiest */
                task?: string[] | null;
                /** @description how many of the busiest tasks */
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["TrafficBody"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    batches_v1_batches_get: {
        parameters: {
            query?: {
                limit?: number;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["BatchList"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
    chat_v1_chat_completions_post: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["ChatBody"];
            };
        };
        responses: {
            /** @description Successful Response */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ChatCompletion"];
                    "text/event-stream": components["schemas"]["ChatCompletionChunk"];
                };
            };
            /** @description The request cannot be served as it is. */
            "4XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
            /** @description The server cannot serve it now. */
            "5XX": {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["ErrorBody"];
                };
            };
        };
    };
}
