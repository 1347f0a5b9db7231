// What Go calls. One function does one whole act, so that an act costs one crossing from Go to C; Run is the hot one.
// A function that returns an OrtStatus returns NULL when all went well; the caller frees it with ort_status_free.
#ifndef PENSTOCK_ORT_H
#define PENSTOCK_ORT_H

#include "api.h"

// ort_load opens the shared library and finds the table. It returns NULL, or a message that the caller frees. It runs
// once per process, before anything else here; the library is never closed again (its threads could still be in it).
char *ort_load(const char *path);
const char *ort_version(void);
const char *ort_build(void);

void ort_trim(void);

int ort_status_code(const OrtStatus *status);
const char *ort_status_message(const OrtStatus *status);
void ort_status_free(OrtStatus *status);
// ort_status_drop frees a status that nobody can act on; NULL is allowed.
void ort_status_drop(OrtStatus *status);

OrtStatus *ort_env_new(int level, int intra, int inter, bool spin, uintptr_t log, OrtEnv **out);
void ort_env_free(OrtEnv *env);

typedef struct {
  const char *optimized_path; // NULL: not saved
  const char *profile_prefix; // NULL: no profile
  const char *log_id;         // NULL: none
  int optimization;           // 0, 1, 2, 3 or 99
  int intra, inter;           // only with own_threads
  bool own_threads, parallel, no_pattern, no_arena, deterministic;
} ort_settings;

OrtStatus *ort_options_new(const ort_settings *settings, OrtSessionOptions **out);
OrtStatus *ort_options_config(OrtSessionOptions *options, const char *key, const char *value);
OrtStatus *ort_options_dimension(OrtSessionOptions *options, const char *name, int64_t value);
OrtStatus *ort_options_cancel(OrtSessionOptions *options);
void ort_options_free(OrtSessionOptions *options);

OrtStatus *ort_prepacked_new(OrtPrepacked **out);
void ort_prepacked_free(OrtPrepacked *prepacked);

// path or data, and prepacked, may be NULL.
OrtStatus *ort_session_new(const OrtEnv *env, const char *path, const void *data, size_t size,
                           const OrtSessionOptions *options, OrtPrepacked *prepacked, OrtSession **out);
void ort_session_free(OrtSession *session);
OrtStatus *ort_session_end_profile(OrtSession *session, char **out); // *out: freed with free
// The pairs live until ort_stats_free.
OrtStatus *ort_session_stats(OrtSession *session, OrtKeyValuePairs **out, const char *const **keys,
                             const char *const **values, size_t *count);
void ort_stats_free(OrtKeyValuePairs *pairs);

enum { ort_inputs = 0, ort_outputs = 1, ort_initializers = 2 };

// One input, output or overridable initializer. Everything in it is malloc'ed and freed by ort_info_free.
typedef struct {
  char *name;
  char **symbols; // rank entries, "" where a dimension has no name
  int64_t *dims;  // rank entries, -1 where any size is taken
  size_t rank;
  int kind; // ONNXType; 1 is a tensor
  int type; // ONNXTensorElementDataType
  bool ranked;
} ort_info;

OrtStatus *ort_session_count(const OrtSession *session, int which, size_t *out);
OrtStatus *ort_session_info(const OrtSession *session, int which, size_t index, ort_info *out);
void ort_info_free(ort_info *info);

OrtStatus *ort_run_options_new(OrtRunOptions **out);
OrtStatus *ort_run_options_config(OrtRunOptions *options, const char *key, const char *value);
OrtStatus *ort_run_options_tag(OrtRunOptions *options, const char *tag);
OrtStatus *ort_run_options_level(OrtRunOptions *options, int level);
OrtStatus *ort_run_options_terminate(OrtRunOptions *options, bool terminate);
void ort_run_options_free(OrtRunOptions *options);

// A tensor on its way in or out. String tensors' data is packed: per element a little-endian uint32 length and the
// bytes. owned is set by ort_run when data was malloc'ed here and is freed by ort_frame_clear.
typedef struct {
  void *data;
  size_t size;
  const int64_t *shape;
  size_t rank;
  int32_t type;
  bool owned;
} ort_tensor;

// Tensors up to this size stay in a frame between calls; larger ones cost far more than what keeping saves.
#define ORT_KEEP_LIMIT 16384

// A small tensor that stays in the frame from one call to the next. data lies in value.
typedef struct {
  OrtValue *value;
  const char *name; // of the input or output; the session's, compared as an address
  void *data;
  size_t size;
  const int64_t *shape;
  size_t rank;
  int32_t type;
} ort_kept;

// The arrays of one call of Run, made once and used again by later calls.
typedef struct {
  const char **input_names, **output_names;
  OrtValue **input_values, **output_values;
  ort_tensor *in, *out; // out with data set: the result is written there; else ONNX Runtime allocates
  ort_kept *kept_in, *kept_out;
  int64_t *dims; // room for the shapes that in and out point to
  size_t inputs, outputs, room;
  size_t bound_inputs, bound_outputs; // how many there were when kept_out was filled; 0 outputs: it is not
  uint64_t canary;                    // stands in bound outputs before a run; 0: outputs are never bound
} ort_frame;

// canary is a secret of the process, or 0 for frames that shall not bind outputs.
ort_frame *ort_frame_new(size_t inputs, size_t outputs, uint64_t canary);
bool ort_frame_dims(ort_frame *frame, size_t room);
void ort_frame_clear(ort_frame *frame);
void ort_frame_free(ort_frame *frame);

// ort_run makes the input values, runs, frees them, and fills in what came out. The outputs live until
// ort_frame_clear; after an error the frame is clear already.
OrtStatus *ort_run(OrtSession *session, const OrtRunOptions *options, ort_frame *frame);

#endif
