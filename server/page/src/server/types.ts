// Short names for what the server takes and answers; schema.ts, which is made from docs/openapi.json, says what that is.
import type { components, paths } from "./schema";

type Schemas = components["schemas"];

export type TaskSummary = Schemas["TaskSummary"];
export type TaskPage = Schemas["TaskList"];
export type Residency = TaskSummary["residency"];
export type Task = Schemas["TaskBody"];
export type Version = Schemas["TaskVersion"];
export type Curves = NonNullable<Version["curves"]>;
/** An alias points at one version, or at several by weight. */
export type Aliases = Task["aliases"];
export type Target = Schemas["AliasTarget"];
export type AliasBody = Schemas["AliasBody"];
/** What an alias has besides its versions, and what was counted of it. */
export type Rollout = Schemas["RolloutState"];
/** The parts of an upload's form. */
export type UploadPart = keyof paths["/v1/tasks/{task}/versions"]["post"]["requestBody"]["content"]["multipart/form-data"];
export type Uploaded = Schemas["UploadedBody"];
export type Series = Schemas["TrafficSeries"];
export type Traffic = Schemas["TrafficBody"];
export type Overview = Schemas["OverviewBody"];
export type Batch = Schemas["RecentBatch"];

/** The bare backbone. */
export type Base = Task & { [Field in "backbone" | "kinds" | "chats"]-?: NonNullable<Task[Field]> };

export type Prediction = Schemas["Prediction"];
export type Kind = Prediction["kind"];
/** What a task of one kind answers, and the parameters that it takes. */
export type OutputOf<K extends Kind> = Extract<Prediction, { kind: K }>["outputs"][number];
export type ParametersOf<K extends Kind> = Schemas[`${Capitalize<K>}Parameters`];
export type PredictionEvent = Schemas["PredictionEvent"];
export type Failure = Schemas["FailedPrediction"];
export type Result = Prediction | Failure;
export type Predict = Schemas["PredictBody"];
export type PredictItem = Schemas["PredictItem"];
export type PredictMany = Schemas["PredictManyBody"];
export type Chat = Schemas["ChatBody"];
export type ChatChunk = Schemas["ChatCompletionChunk"];
