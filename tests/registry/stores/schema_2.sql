BEGIN TRANSACTION;
CREATE TABLE alias_history (
	id INTEGER NOT NULL, 
	task VARCHAR NOT NULL, 
	targets JSON NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(task) REFERENCES tasks (name) ON DELETE CASCADE
);
INSERT INTO "alias_history" VALUES(1,'spam','[[1, 1.0]]');
CREATE TABLE aliases (
	task VARCHAR NOT NULL, 
	alias VARCHAR NOT NULL, 
	targets JSON NOT NULL, 
	PRIMARY KEY (task, alias), 
	FOREIGN KEY(task) REFERENCES tasks (name) ON DELETE CASCADE
);
INSERT INTO "aliases" VALUES('spam','stable','[[2, 1.0]]');
CREATE TABLE audit (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	time DOUBLE NOT NULL, 
	actor VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	request_id VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	task VARCHAR NOT NULL, 
	alias VARCHAR NOT NULL, 
	version INTEGER, 
	"before" JSON NOT NULL, 
	"after" JSON NOT NULL, 
	detail VARCHAR NOT NULL
);
INSERT INTO "audit" VALUES(1,1.7958031373464393615e+09,'','','','upload','spam','stable',1,'[]','[[1, 1.0]]','');
INSERT INTO "audit" VALUES(2,1.79580313740135240558e+09,'','','','upload','spam','stable',2,'[[1, 1.0]]','[[2, 1.0]]','priority');
CREATE TABLE drops (
	folder VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	outcome VARCHAR NOT NULL, 
	PRIMARY KEY (folder)
);
INSERT INTO "drops" VALUES('copied','abc','taken in as version 1');
CREATE TABLE evaluations (
	task VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	evaluation JSON NOT NULL, 
	PRIMARY KEY (task, number), 
	FOREIGN KEY(task) REFERENCES tasks (name) ON DELETE CASCADE
);
CREATE TABLE rollouts (
	task VARCHAR NOT NULL, 
	alias VARCHAR NOT NULL, 
	rollout JSON NOT NULL, 
	PRIMARY KEY (task, alias), 
	FOREIGN KEY(task) REFERENCES tasks (name) ON DELETE CASCADE
);
CREATE TABLE schema (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema" VALUES(2);
CREATE TABLE tasks (
	name VARCHAR NOT NULL, 
	created DOUBLE NOT NULL, 
	settings JSON NOT NULL, 
	next_version INTEGER NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "tasks" VALUES('spam',1.79580313732485270499e+09,'{"priority": 3}',3);
CREATE TABLE versions (
	task VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	created DOUBLE NOT NULL, 
	info JSON NOT NULL, 
	PRIMARY KEY (task, number), 
	FOREIGN KEY(task) REFERENCES tasks (name) ON DELETE CASCADE
);
INSERT INTO "versions" VALUES('spam',1,'5abe20e30c499e45976b79ee2d60d18c15fa9f93eb81b485f28eacc0b0f580ad',1.79580313732583880421e+09,'{"method": "lora", "kind": "classify", "rank": 8, "matched_tensors": 1, "bytes": 10, "base": null, "labels": null, "card": null, "settings": {}, "warnings": [], "num_labels": null, "references": [], "kinds": []}');
INSERT INTO "versions" VALUES('spam',2,'9fb16c837fe5d8fe02d685c27951e2e5b94369e064b1b1519ee7ba5575a2a82b',1.79580313738601541522e+09,'{"method": "lora", "kind": "classify", "rank": 8, "matched_tensors": 1, "bytes": 10, "base": null, "labels": null, "card": null, "settings": {}, "warnings": [], "num_labels": null, "references": [], "kinds": []}');
CREATE INDEX ix_audit_task ON audit (task);
CREATE INDEX ix_versions_sha256 ON versions (sha256);
CREATE INDEX ix_alias_history_task ON alias_history (task);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('audit',2);
COMMIT;
