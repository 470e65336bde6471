-- A journal as format 2 wrote it: a confirmed sale with a void that waits, a refused, a reversing
-- and an open sale.
BEGIN TRANSACTION;
CREATE TABLE attempt_events (
  n      INTEGER PRIMARY KEY,
  id     TEXT NOT NULL REFERENCES attempts,
  event  TEXT NOT NULL,
  before TEXT NOT NULL,
  after  TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;
INSERT INTO "attempt_events" VALUES(1,'01a20244-e806-8007-b32f-8b1224083fd2','sale_posted','open','confirmed','2026-11-22T08:00:00.009Z');
INSERT INTO "attempt_events" VALUES(2,'01a20244-e80b-8007-ab90-2f8911e81818','sale_refused','open','refused','2026-11-22T08:00:00.014Z');
INSERT INTO "attempt_events" VALUES(3,'01a20244-e80f-8007-b8c9-9d5d5d983195','no_answer','open','unknown','2026-11-22T08:00:00.017Z');
INSERT INTO "attempt_events" VALUES(4,'01a20244-e80f-8007-b8c9-9d5d5d983195','reverse_chosen','unknown','reversing','2026-11-22T08:00:00.018Z');
CREATE TABLE attempts (
  id           TEXT PRIMARY KEY,
  sequence     INTEGER NOT NULL UNIQUE REFERENCES records,
  checkout     TEXT NOT NULL,
  state        TEXT NOT NULL,
  programme    TEXT NOT NULL,
  currency     TEXT NOT NULL,
  amount_minor INTEGER NOT NULL CHECK (amount_minor >= 0),
  slip         TEXT NOT NULL  -- JSON: what the receipt shows, made with the intent
) STRICT, WITHOUT ROWID;
INSERT INTO "attempts" VALUES('01a20244-e806-8007-b32f-8b1224083fd2',2,'S1','confirmed','flood','CNY',6000,'{"receipt_no":"0001-000002-0"}');
INSERT INTO "attempts" VALUES('01a20244-e80b-8007-ab90-2f8911e81818',3,'S2','refused','flood','CNY',6000,'{"receipt_no":"0001-000003-0"}');
INSERT INTO "attempts" VALUES('01a20244-e80f-8007-b8c9-9d5d5d983195',4,'S3','reversing','flood','CNY',6000,'{"receipt_no":"0001-000004-0"}');
INSERT INTO "attempts" VALUES('01a20244-e816-8007-b54e-e781cc75f636',7,'S4','open','flood','CNY',6000,'{"receipt_no":"0001-000007-0"}');
CREATE TABLE correction_events (
  n      INTEGER PRIMARY KEY,
  id     TEXT NOT NULL REFERENCES corrections,
  event  TEXT NOT NULL,
  before TEXT NOT NULL,
  after  TEXT NOT NULL,
  at     TEXT NOT NULL
) STRICT;
CREATE TABLE corrections (
  id                TEXT PRIMARY KEY,
  sequence          INTEGER NOT NULL UNIQUE REFERENCES records,
  kind              TEXT NOT NULL CHECK (kind IN ('void', 'refund')),
  original_terminal TEXT NOT NULL,
  original          TEXT NOT NULL,  -- id of the sale's attempt, perhaps another till's
  sale_receipt_no   TEXT NOT NULL,
  state             TEXT NOT NULL,
  programme         TEXT NOT NULL,
  currency          TEXT NOT NULL,
  amount_minor      INTEGER NOT NULL CHECK (amount_minor >= 0),
  beneficiary_minor INTEGER NOT NULL CHECK (beneficiary_minor >= 0),
  reference         TEXT UNIQUE,    -- the register's own number of a return
  slip              TEXT NOT NULL   -- JSON, as of an attempt
) STRICT, WITHOUT ROWID;
INSERT INTO "corrections" VALUES('01a20244-e814-8007-b504-d90e945de2e8',6,'void','t-1','01a20244-e806-8007-b32f-8b1224083fd2','0001-000002-0','waiting','flood','CNY',6000,0,NULL,'{"kind":"VOIDED","receipt_no":"0001-000002-0"}');
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO "meta" VALUES('created_at','2026-11-22T08:00:00.001Z');
INSERT INTO "meta" VALUES('incarnation','38b4e652e44da7f2370d9e260e271365');
INSERT INTO "meta" VALUES('schema','2');
INSERT INTO "meta" VALUES('terminal','t-1');
CREATE TABLE outcomes (
  n           INTEGER PRIMARY KEY,
  sequence    INTEGER NOT NULL REFERENCES records,
  result      TEXT NOT NULL,
  jws         TEXT NOT NULL,
  received_at TEXT NOT NULL,
  UNIQUE (sequence, result)
) STRICT;
INSERT INTO "outcomes" VALUES(1,2,'posted','redeem-posted-01a20244-e806-8007-b32f-8b1224083fd2','2026-11-22T08:00:00.008Z');
INSERT INTO "outcomes" VALUES(2,3,'refused','redeem-refused-01a20244-e80b-8007-ab90-2f8911e81818','2026-11-22T08:00:00.013Z');
CREATE TABLE print_jobs (
  n          INTEGER PRIMARY KEY,
  receipt_no TEXT NOT NULL,
  copy_no    INTEGER NOT NULL CHECK (copy_no >= 0),  -- 0: the original
  slip       TEXT NOT NULL,
  state      TEXT NOT NULL CHECK (state IN
               ('queued', 'printing', 'printed', 'failed', 'unknown')),
  queued_at  TEXT NOT NULL,
  ended_at   TEXT,
  UNIQUE (receipt_no, copy_no)
) STRICT;
INSERT INTO "print_jobs" VALUES(1,'0001-000002-0',0,'{"receipt_no":"0001-000002-0"}','queued','2026-11-22T08:00:00.010Z',NULL);
CREATE TABLE records (
  sequence    INTEGER PRIMARY KEY CHECK (sequence >= 1),
  kind        TEXT NOT NULL,
  id          TEXT NOT NULL,
  choice      TEXT CHECK (choice IN ('undo')),  -- what an unknown attempt became; at most one
  digest      TEXT NOT NULL UNIQUE,
  prev        TEXT NOT NULL UNIQUE,
  occurred_at TEXT NOT NULL,
  jws         TEXT NOT NULL,
  UNIQUE (id, choice)
) STRICT;
INSERT INTO "records" VALUES(1,'start','01a20244-e802-846e-90a4-a3a6d07f5c0c',NULL,'5c5OGGeIgvX_ku2JlVYCJQP3nUJQ5rhjtbfvgi_Sqik','UY7FE6OLzwme_r0zmXkdju2d6ZB9h1FdeBDVaD64WC4','2026-11-22T08:00:00.003Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7InNvZnR3YXJlIjoidGVzdC8xIn0sImlkIjoiMDFhMjAyNDQtZTgwMi04NDZlLTkwYTQtYTNhNmQwN2Y1YzBjIiwiaW5jYXJuYXRpb24iOiIzOGI0ZTY1MmU0NGRhN2YyMzcwZDllMjYwZTI3MTM2NSIsImtpbmQiOiJzdGFydCIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMDNaIiwicHJldiI6IlVZN0ZFNk9MendtZV9yMHptWGtkanUyZDZaQjloMUZkZUJEVmFENjRXQzQiLCJzZXF1ZW5jZSI6MSwidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.3vDEOTQDnBlG6mjk6rTjr_Czn9mrIZeTjSzMfk4VK6KJEH7zsl6tOKB-WldDot-vz8ANp_CidnT3XbZKEq8CCg');
INSERT INTO "records" VALUES(2,'redeem','01a20244-e806-8007-b32f-8b1224083fd2',NULL,'Ngumiitgbf9fhcBnp0l8ppoejyDw7-qi5rpXjzolKoA','5c5OGGeIgvX_ku2JlVYCJQP3nUJQ5rhjtbfvgi_Sqik','2026-11-22T08:00:00.007Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7ImFsbG9jYXRpb24iOlt7ImJlbmVmaWNpYXJ5X21pbm9yIjowLCJsaW5lIjoxLCJwcm9ncmFtbWVfbWlub3IiOjYwMDAsInF1YW50aXR5IjowLCJ2b3VjaGVyIjoiVlZWVlZWVlZWVlZWVlZWVlZWVlZWViJ9XSwiYmFza2V0IjpbeyJrZXkiOiIwNjkxMzA0NjE5ODc4MiIsImxpbmVfYW1vdW50X21pbm9yIjo2NDkwLCJxdWFudGl0eSI6MSwidW5pdCI6InBpZWNlIn1dLCJiZW5lZmljaWFyeSI6IkJCQkJCQkJCQkJCQkJCQkJCQkJCQkIiLCJjYXNoaWVyIjoiYzAxIiwiY2hlY2tvdXQiOiJTMSIsImN1cnJlbmN5IjoiQ05ZIiwicHJlc2VudG1lbnQiOiJvbmxpbmUiLCJwcm9ncmFtbWUiOiJmbG9vZCIsInJ1bGVzX3ZlcnNpb24iOjEsInRva2VuX3NoYTI1NiI6IlRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFQifSwiaWQiOiIwMWEyMDI0NC1lODA2LTgwMDctYjMyZi04YjEyMjQwODNmZDIiLCJpbmNhcm5hdGlvbiI6IjM4YjRlNjUyZTQ0ZGE3ZjIzNzBkOWUyNjBlMjcxMzY1Iiwia2luZCI6InJlZGVlbSIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMDdaIiwicHJldiI6IjVjNU9HR2VJZ3ZYX2t1MkpsVllDSlFQM25VSlE1cmhqdGJmdmdpX1NxaWsiLCJzZXF1ZW5jZSI6MiwidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.idB4secU7UyhG7PzgeYamUYqqT_VxgdN6RqFiTa0guqqNP3OqP0uK8YcklwRs-H0enzOKBpssXnXIfCrDWxJAg');
INSERT INTO "records" VALUES(3,'redeem','01a20244-e80b-8007-ab90-2f8911e81818',NULL,'2bo9O3v66EPPbKlqBptVZ2vsX-3vLoow0yWnotSmFJ0','Ngumiitgbf9fhcBnp0l8ppoejyDw7-qi5rpXjzolKoA','2026-11-22T08:00:00.012Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7ImFsbG9jYXRpb24iOlt7ImJlbmVmaWNpYXJ5X21pbm9yIjowLCJsaW5lIjoxLCJwcm9ncmFtbWVfbWlub3IiOjYwMDAsInF1YW50aXR5IjowLCJ2b3VjaGVyIjoiVlZWVlZWVlZWVlZWVlZWVlZWVlZWViJ9XSwiYmFza2V0IjpbeyJrZXkiOiIwNjkxMzA0NjE5ODc4MiIsImxpbmVfYW1vdW50X21pbm9yIjo2NDkwLCJxdWFudGl0eSI6MSwidW5pdCI6InBpZWNlIn1dLCJiZW5lZmljaWFyeSI6IkJCQkJCQkJCQkJCQkJCQkJCQkJCQkIiLCJjYXNoaWVyIjoiYzAxIiwiY2hlY2tvdXQiOiJTMiIsImN1cnJlbmN5IjoiQ05ZIiwicHJlc2VudG1lbnQiOiJvbmxpbmUiLCJwcm9ncmFtbWUiOiJmbG9vZCIsInJ1bGVzX3ZlcnNpb24iOjEsInRva2VuX3NoYTI1NiI6IlRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFQifSwiaWQiOiIwMWEyMDI0NC1lODBiLTgwMDctYWI5MC0yZjg5MTFlODE4MTgiLCJpbmNhcm5hdGlvbiI6IjM4YjRlNjUyZTQ0ZGE3ZjIzNzBkOWUyNjBlMjcxMzY1Iiwia2luZCI6InJlZGVlbSIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMTJaIiwicHJldiI6Ik5ndW1paXRnYmY5ZmhjQm5wMGw4cHBvZWp5RHc3LXFpNXJwWGp6b2xLb0EiLCJzZXF1ZW5jZSI6MywidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.EWFLEopj-EWBfkqp8c_r6Y8uCFn9WmfukiDs3m_LA7AaM3uhHe4jVKHH58f9DYv9ik4WaFOnbbChCDnbryaFAg');
INSERT INTO "records" VALUES(4,'redeem','01a20244-e80f-8007-b8c9-9d5d5d983195',NULL,'XclUO4gUsVgFkMfeh1WW4-8GHL8Y-7rIWSgYGtiWFBQ','2bo9O3v66EPPbKlqBptVZ2vsX-3vLoow0yWnotSmFJ0','2026-11-22T08:00:00.016Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7ImFsbG9jYXRpb24iOlt7ImJlbmVmaWNpYXJ5X21pbm9yIjowLCJsaW5lIjoxLCJwcm9ncmFtbWVfbWlub3IiOjYwMDAsInF1YW50aXR5IjowLCJ2b3VjaGVyIjoiVlZWVlZWVlZWVlZWVlZWVlZWVlZWViJ9XSwiYmFza2V0IjpbeyJrZXkiOiIwNjkxMzA0NjE5ODc4MiIsImxpbmVfYW1vdW50X21pbm9yIjo2NDkwLCJxdWFudGl0eSI6MSwidW5pdCI6InBpZWNlIn1dLCJiZW5lZmljaWFyeSI6IkJCQkJCQkJCQkJCQkJCQkJCQkJCQkIiLCJjYXNoaWVyIjoiYzAxIiwiY2hlY2tvdXQiOiJTMyIsImN1cnJlbmN5IjoiQ05ZIiwicHJlc2VudG1lbnQiOiJvbmxpbmUiLCJwcm9ncmFtbWUiOiJmbG9vZCIsInJ1bGVzX3ZlcnNpb24iOjEsInRva2VuX3NoYTI1NiI6IlRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFQifSwiaWQiOiIwMWEyMDI0NC1lODBmLTgwMDctYjhjOS05ZDVkNWQ5ODMxOTUiLCJpbmNhcm5hdGlvbiI6IjM4YjRlNjUyZTQ0ZGE3ZjIzNzBkOWUyNjBlMjcxMzY1Iiwia2luZCI6InJlZGVlbSIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMTZaIiwicHJldiI6IjJibzlPM3Y2NkVQUGJLbHFCcHRWWjJ2c1gtM3ZMb293MHlXbm90U21GSjAiLCJzZXF1ZW5jZSI6NCwidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.6nEtQCTIScRDbMHX_yop7TmYt15fVHhWqqw7jDAsWW1KLmW49W2w6NzxLAyOyEWlIZRgPsahTgXR_2-p9F-YCA');
INSERT INTO "records" VALUES(5,'reversal','01a20244-e80f-8007-b8c9-9d5d5d983195','undo','060Hj8oAKtFQxmzQfEH6m_b5P_PqIdPaRIZ4P2BkX7M','XclUO4gUsVgFkMfeh1WW4-8GHL8Y-7rIWSgYGtiWFBQ','2026-11-22T08:00:00.019Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7InJlYXNvbiI6ImNhbmNlbGxlZCIsInJlY29yZF9zaGEyNTYiOiJYY2xVTzRnVXNWZ0ZrTWZlaDFXVzQtOEdITDhZLTdySVdTZ1lHdGlXRkJRIn0sImlkIjoiMDFhMjAyNDQtZTgwZi04MDA3LWI4YzktOWQ1ZDVkOTgzMTk1IiwiaW5jYXJuYXRpb24iOiIzOGI0ZTY1MmU0NGRhN2YyMzcwZDllMjYwZTI3MTM2NSIsImtpbmQiOiJyZXZlcnNhbCIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMTlaIiwicHJldiI6IlhjbFVPNGdVc1ZnRmtNZmVoMVdXNC04R0hMOFktN3JJV1NnWUd0aVdGQlEiLCJzZXF1ZW5jZSI6NSwidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.awlBuIejdQYCNjbQUb0wnfyUj5qAfhbYc7XdQEGCPBMLHiL1AnFCX12IR4mCzFbaUQkFdLLL_4DwA_cphAf8Bw');
INSERT INTO "records" VALUES(6,'void','01a20244-e814-8007-b504-d90e945de2e8',NULL,'lgeq2R4ghARfMhsMFalTdXlSB3hUGa2v5FYqkur17YI','060Hj8oAKtFQxmzQfEH6m_b5P_PqIdPaRIZ4P2BkX7M','2026-11-22T08:00:00.021Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7ImFwcHJvdmVkX2J5IjpudWxsLCJjYXNoaWVyIjoiYzAxIiwib3JpZ2luYWwiOnsiaWQiOiIwMWEyMDI0NC1lODA2LTgwMDctYjMyZi04YjEyMjQwODNmZDIiLCJ0ZXJtaW5hbCI6InQtMSJ9LCJyZWFzb24iOiJjaGFuZ2VkX21pbmQiLCJyZWNvcmRfc2hhMjU2IjoiTmd1bWlpdGdiZjlmaGNCbnAwbDhwcG9lanlEdzctcWk1cnBYanpvbEtvQSJ9LCJpZCI6IjAxYTIwMjQ0LWU4MTQtODAwNy1iNTA0LWQ5MGU5NDVkZTJlOCIsImluY2FybmF0aW9uIjoiMzhiNGU2NTJlNDRkYTdmMjM3MGQ5ZTI2MGUyNzEzNjUiLCJraW5kIjoidm9pZCIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMjFaIiwicHJldiI6IjA2MEhqOG9BS3RGUXhtelFmRUg2bV9iNVBfUHFJZFBhUklaNFAyQmtYN00iLCJzZXF1ZW5jZSI6NiwidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.lDSADUExWxCbhxpY8wwukOvpNqgmGs5TZKSIAfUd4fSc_ZWlYZgfpNgqJkqJcbVJQIx1bQ83d9QMsZf78kg2Cg');
INSERT INTO "records" VALUES(7,'redeem','01a20244-e816-8007-b54e-e781cc75f636',NULL,'yFgBznoKADpiCkQccJ4CbEQezCWo8Y8ItSto83UmICs','lgeq2R4ghARfMhsMFalTdXlSB3hUGa2v5FYqkur17YI','2026-11-22T08:00:00.023Z','eyJhbGciOiJFZERTQSIsImtpZCI6Im1VZ3pQTVNDVUlsMDMyaDdWeklIMVVJODgzUmRZU0tPb2x6YmtVSEF1VVUiLCJ0eXAiOiJjYXJlcG9zLXJlY29yZCtqd3MifQ.eyJjb250ZW50Ijp7ImFsbG9jYXRpb24iOlt7ImJlbmVmaWNpYXJ5X21pbm9yIjowLCJsaW5lIjoxLCJwcm9ncmFtbWVfbWlub3IiOjYwMDAsInF1YW50aXR5IjowLCJ2b3VjaGVyIjoiVlZWVlZWVlZWVlZWVlZWVlZWVlZWViJ9XSwiYmFza2V0IjpbeyJrZXkiOiIwNjkxMzA0NjE5ODc4MiIsImxpbmVfYW1vdW50X21pbm9yIjo2NDkwLCJxdWFudGl0eSI6MSwidW5pdCI6InBpZWNlIn1dLCJiZW5lZmljaWFyeSI6IkJCQkJCQkJCQkJCQkJCQkJCQkJCQkIiLCJjYXNoaWVyIjoiYzAxIiwiY2hlY2tvdXQiOiJTNCIsImN1cnJlbmN5IjoiQ05ZIiwicHJlc2VudG1lbnQiOiJvbmxpbmUiLCJwcm9ncmFtbWUiOiJmbG9vZCIsInJ1bGVzX3ZlcnNpb24iOjEsInRva2VuX3NoYTI1NiI6IlRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFRUVFQifSwiaWQiOiIwMWEyMDI0NC1lODE2LTgwMDctYjU0ZS1lNzgxY2M3NWY2MzYiLCJpbmNhcm5hdGlvbiI6IjM4YjRlNjUyZTQ0ZGE3ZjIzNzBkOWUyNjBlMjcxMzY1Iiwia2luZCI6InJlZGVlbSIsIm9jY3VycmVkX2F0IjoiMjAyNi0xMS0yMlQwODowMDowMC4wMjNaIiwicHJldiI6ImxnZXEyUjRnaEFSZk1oc01GYWxUZFhsU0IzaFVHYTJ2NUZZcWt1cjE3WUkiLCJzZXF1ZW5jZSI6NywidGVybWluYWwiOiJ0LTEiLCJ2IjoxfQ.XdH1tmr3jAvqMdYgJIh3505itxk_gQIt_jQ_hxGjo9oc6EOZ0g0_jb6Pmm7Yv-FsFq1PjpoeB5_d_HZ8OushCQ');
CREATE TABLE sold_terms (  -- of item and fixed-price vouchers, as a refund needs them
  id      TEXT NOT NULL REFERENCES attempts,
  voucher TEXT NOT NULL,
  terms   TEXT NOT NULL,  -- JSON
  PRIMARY KEY (id, voucher)
) STRICT, WITHOUT ROWID;
CREATE TABLE visits (
  iss        TEXT NOT NULL,
  jti_sha256 TEXT NOT NULL,
  first_at   TEXT NOT NULL,
  PRIMARY KEY (iss, jti_sha256)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_redeem_per_attempt ON records (id) WHERE kind = 'redeem';
CREATE TRIGGER records_stay BEFORE UPDATE ON records
  BEGIN SELECT RAISE(ABORT, 'a record is never changed'); END;
CREATE TRIGGER records_remain BEFORE DELETE ON records
  BEGIN SELECT RAISE(ABORT, 'a record is never deleted'); END;
CREATE TRIGGER outcomes_stay BEFORE UPDATE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never changed'); END;
CREATE TRIGGER outcomes_remain BEFORE DELETE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;
CREATE UNIQUE INDEX one_live_attempt_per_checkout ON attempts (checkout)
  WHERE state IN ('open', 'unknown', 'interrupted', 'goods_asked', 'confirmed');
CREATE INDEX attempts_unfinished ON attempts (sequence) WHERE state NOT IN
  ('confirmed', 'refused', 'reversed', 'review', 'voided');
CREATE UNIQUE INDEX one_waiting_correction_per_sale ON corrections (original_terminal, original)
  WHERE state = 'waiting';
CREATE UNIQUE INDEX one_void_per_sale ON corrections (original_terminal, original)
  WHERE kind = 'void' AND state = 'posted';
CREATE INDEX corrections_of_sale ON corrections (original_terminal, original);
PRAGMA user_version = 1;
COMMIT;
