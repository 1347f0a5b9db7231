#include "ort.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "_cgo_export.h"

#define CALL(name) ((type_##name)table[index_##name])
#define TRY(expression)                                                                                                \
  do {                                                                                                                 \
    OrtStatus *try_status = (expression);                                                                              \
    if (try_status != NULL) return try_status;                                                                         \
  } while (0)

enum { type_string = 8, code_fail = 1, code_invalid = 2, kind_tensor = 1 };

// Set once by ort_load and ort_env_new, under the lock that Open holds; only read afterwards.
static const void *const *table;
static const OrtApiBase *base;
static OrtMemoryInfo *host;
static OrtAllocator *allocator;

static OrtStatus *out_of_memory(void) { return CALL(CreateStatus)(code_fail, "out of memory"); }

char *ort_load(const char *path) {
  // RTLD_LOCAL keeps the library's symbols (protobuf's among them) away from anything else in the process.
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return strdup(dlerror());
  const OrtApiBase *(*get)(void) = (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
  if (get == NULL) return strdup("the library has no OrtGetApiBase");
  base = get();
  table = base->GetApi(ORT_API_VERSION);
  if (table == NULL) return strdup("the library is older than API version 24 (ONNX Runtime 1.24)");
  return NULL;
}

const char *ort_version(void) { return base->GetVersionString(); }
const char *ort_build(void) { return CALL(GetBuildInfoString)(); }

void ort_trim(void) {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

int ort_status_code(const OrtStatus *status) { return CALL(GetErrorCode)(status); }
const char *ort_status_message(const OrtStatus *status) { return CALL(GetErrorMessage)(status); }
void ort_status_free(OrtStatus *status) { CALL(ReleaseStatus)(status); }

void ort_status_drop(OrtStatus *status) {
  if (status != NULL) CALL(ReleaseStatus)(status);
}

static void log_to_go(void *param, int severity, const char *category, const char *logid, const char *location,
                      const char *message) {
  ortLog((uintptr_t)param, severity, (char *)category, (char *)logid, (char *)location, (char *)message);
}

static OrtStatus *threading(OrtThreadingOptions *options, int intra, int inter, bool spin) {
  TRY(CALL(SetGlobalIntraOpNumThreads)(options, intra));
  TRY(CALL(SetGlobalInterOpNumThreads)(options, inter));
  return CALL(SetGlobalSpinControl)(options, spin);
}

OrtStatus *ort_env_new(int level, int intra, int inter, bool spin, uintptr_t log, OrtEnv **out) {
  if (host == NULL) TRY(CALL(CreateCpuMemoryInfo)(1 /* arena */, 0 /* default */, &host));
  if (allocator == NULL) TRY(CALL(GetAllocatorWithDefaultOptions)(&allocator));
  OrtThreadingOptions *options;
  TRY(CALL(CreateThreadingOptions)(&options));
  OrtStatus *status = threading(options, intra, inter, spin);
  if (status == NULL)
    status = CALL(CreateEnvWithCustomLoggerAndGlobalThreadPools)(log_to_go, (void *)log, level, "penstock", options, out);
  CALL(ReleaseThreadingOptions)(options);
  return status;
}

void ort_env_free(OrtEnv *env) { CALL(ReleaseEnv)(env); }

static OrtStatus *apply(const ort_settings *s, OrtSessionOptions *o) {
  TRY(CALL(SetSessionGraphOptimizationLevel)(o, s->optimization));
  TRY(CALL(SetSessionExecutionMode)(o, s->parallel ? 1 : 0));
  if (s->own_threads) {
    TRY(CALL(SetIntraOpNumThreads)(o, s->intra));
    TRY(CALL(SetInterOpNumThreads)(o, s->inter));
  } else {
    TRY(CALL(DisablePerSessionThreads)(o));
  }
  if (s->no_pattern) TRY(CALL(DisableMemPattern)(o));
  if (s->no_arena) TRY(CALL(DisableCpuMemArena)(o));
  if (s->deterministic) TRY(CALL(SetDeterministicCompute)(o, true));
  if (s->optimized_path != NULL) TRY(CALL(SetOptimizedModelFilePath)(o, s->optimized_path));
  if (s->profile_prefix != NULL) TRY(CALL(EnableProfiling)(o, s->profile_prefix));
  if (s->log_id != NULL) TRY(CALL(SetSessionLogId)(o, s->log_id));
  return NULL;
}

OrtStatus *ort_options_new(const ort_settings *settings, OrtSessionOptions **out) {
  TRY(CALL(CreateSessionOptions)(out));
  OrtStatus *status = apply(settings, *out);
  if (status != NULL) CALL(ReleaseSessionOptions)(*out);
  return status;
}

OrtStatus *ort_options_config(OrtSessionOptions *options, const char *key, const char *value) {
  return CALL(AddSessionConfigEntry)(options, key, value);
}

OrtStatus *ort_options_dimension(OrtSessionOptions *options, const char *name, int64_t value) {
  return CALL(AddFreeDimensionOverrideByName)(options, name, value);
}

OrtStatus *ort_options_cancel(OrtSessionOptions *options) {
  return CALL(SessionOptionsSetLoadCancellationFlag)(options, true);
}

void ort_options_free(OrtSessionOptions *options) { CALL(ReleaseSessionOptions)(options); }

OrtStatus *ort_prepacked_new(OrtPrepacked **out) { return CALL(CreatePrepackedWeightsContainer)(out); }
void ort_prepacked_free(OrtPrepacked *prepacked) { CALL(ReleasePrepackedWeightsContainer)(prepacked); }

OrtStatus *ort_session_new(const OrtEnv *env, const char *path, const void *data, size_t size,
                           const OrtSessionOptions *options, OrtPrepacked *prepacked, OrtSession **out) {
  if (path != NULL && prepacked != NULL)
    return CALL(CreateSessionWithPrepackedWeightsContainer)(env, path, options, prepacked, out);
  if (path != NULL) return CALL(CreateSession)(env, path, options, out);
  if (prepacked != NULL)
    return CALL(CreateSessionFromArrayWithPrepackedWeightsContainer)(env, data, size, options, prepacked, out);
  return CALL(CreateSessionFromArray)(env, data, size, options, out);
}

void ort_session_free(OrtSession *session) { CALL(ReleaseSession)(session); }

// take copies a string of ONNX Runtime's allocator into one that free takes.
static OrtStatus *take(char *from, char **out) {
  *out = strdup(from);
  OrtStatus *status = CALL(AllocatorFree)(allocator, from);
  if (status == NULL && *out == NULL) return out_of_memory();
  return status;
}

OrtStatus *ort_session_end_profile(OrtSession *session, char **out) {
  char *name;
  TRY(CALL(SessionEndProfiling)(session, allocator, &name));
  return take(name, out);
}

OrtStatus *ort_session_stats(OrtSession *session, OrtKeyValuePairs **out, const char *const **keys,
                             const char *const **values, size_t *count) {
  OrtAllocator *own;
  TRY(CALL(CreateAllocator)(session, host, &own));
  OrtStatus *status = CALL(AllocatorGetStats)(own, out);
  CALL(ReleaseAllocator)(own);
  if (status == NULL) CALL(GetKeyValuePairs)(*out, keys, values, count);
  return status;
}

void ort_stats_free(OrtKeyValuePairs *pairs) { CALL(ReleaseKeyValuePairs)(pairs); }

OrtStatus *ort_session_count(const OrtSession *session, int which, size_t *out) {
  switch (which) {
  case ort_inputs: return CALL(SessionGetInputCount)(session, out);
  case ort_outputs: return CALL(SessionGetOutputCount)(session, out);
  default: return CALL(SessionGetOverridableInitializerCount)(session, out);
  }
}

static OrtStatus *get_name(const OrtSession *session, int which, size_t index, char **out) {
  char *name;
  switch (which) {
  case ort_inputs: TRY(CALL(SessionGetInputName)(session, index, allocator, &name)); break;
  case ort_outputs: TRY(CALL(SessionGetOutputName)(session, index, allocator, &name)); break;
  default: TRY(CALL(SessionGetOverridableInitializerName)(session, index, allocator, &name)); break;
  }
  return take(name, out);
}

static OrtStatus *get_type(const OrtSession *session, int which, size_t index, OrtTypeInfo **out) {
  switch (which) {
  case ort_inputs: return CALL(SessionGetInputTypeInfo)(session, index, out);
  case ort_outputs: return CALL(SessionGetOutputTypeInfo)(session, index, out);
  default: return CALL(SessionGetOverridableInitializerTypeInfo)(session, index, out);
  }
}

static OrtStatus *fill_shape(const OrtShapeInfo *shape, ort_info *out) {
  TRY(CALL(GetTensorElementType)(shape, &out->type));
  out->ranked = CALL(TensorTypeAndShape_HasShape)(shape);
  if (!out->ranked) return NULL;
  size_t rank;
  TRY(CALL(GetDimensionsCount)(shape, &rank));
  if (rank == 0) return NULL;
  out->dims = calloc(rank, sizeof *out->dims);
  out->symbols = calloc(rank, sizeof *out->symbols);
  const char **symbols = calloc(rank, sizeof *symbols);
  if (out->dims == NULL || out->symbols == NULL || symbols == NULL) {
    free(symbols);
    return out_of_memory();
  }
  out->rank = rank;
  OrtStatus *status = CALL(GetDimensions)(shape, out->dims, rank);
  if (status == NULL) status = CALL(GetSymbolicDimensions)(shape, symbols, rank);
  for (size_t i = 0; i < rank && status == NULL; i++) {
    out->symbols[i] = strdup(symbols[i] == NULL ? "" : symbols[i]);
    if (out->symbols[i] == NULL) status = out_of_memory();
  }
  free(symbols);
  return status;
}

static OrtStatus *fill_info(const OrtSession *session, int which, size_t index, ort_info *out) {
  TRY(get_name(session, which, index, &out->name));
  OrtTypeInfo *type;
  TRY(get_type(session, which, index, &type));
  const OrtShapeInfo *shape = NULL; // belongs to type
  OrtStatus *status = CALL(GetOnnxTypeFromTypeInfo)(type, &out->kind);
  if (status == NULL && out->kind == kind_tensor) {
    status = CALL(CastTypeInfoToTensorInfo)(type, &shape);
    if (status == NULL && shape != NULL) status = fill_shape(shape, out);
  }
  CALL(ReleaseTypeInfo)(type);
  return status;
}

OrtStatus *ort_session_info(const OrtSession *session, int which, size_t index, ort_info *out) {
  memset(out, 0, sizeof *out);
  OrtStatus *status = fill_info(session, which, index, out);
  if (status != NULL) ort_info_free(out);
  return status;
}

void ort_info_free(ort_info *info) {
  for (size_t i = 0; i < info->rank; i++) free(info->symbols[i]);
  free(info->symbols);
  free(info->dims);
  free(info->name);
  memset(info, 0, sizeof *info);
}

OrtStatus *ort_run_options_new(OrtRunOptions **out) { return CALL(CreateRunOptions)(out); }

OrtStatus *ort_run_options_config(OrtRunOptions *options, const char *key, const char *value) {
  return CALL(AddRunConfigEntry)(options, key, value);
}

OrtStatus *ort_run_options_tag(OrtRunOptions *options, const char *tag) {
  return CALL(RunOptionsSetRunTag)(options, tag);
}

OrtStatus *ort_run_options_level(OrtRunOptions *options, int level) {
  return CALL(RunOptionsSetRunLogSeverityLevel)(options, level);
}

OrtStatus *ort_run_options_terminate(OrtRunOptions *options, bool terminate) {
  return terminate ? CALL(RunOptionsSetTerminate)(options) : CALL(RunOptionsUnsetTerminate)(options);
}

void ort_run_options_free(OrtRunOptions *options) { CALL(ReleaseRunOptions)(options); }

ort_frame *ort_frame_new(size_t inputs, size_t outputs) {
  // One block: the frame, then its arrays, all of pointer-sized members.
  size_t size = sizeof(ort_frame) + (inputs + outputs) * (sizeof(char *) + sizeof(OrtValue *) + sizeof(ort_tensor));
  ort_frame *frame = calloc(1, size);
  if (frame == NULL) return NULL;
  frame->in = (ort_tensor *)(frame + 1);
  frame->out = frame->in + inputs;
  frame->input_values = (OrtValue **)(frame->out + outputs);
  frame->output_values = frame->input_values + inputs;
  frame->input_names = (const char **)(frame->output_values + outputs);
  frame->output_names = frame->input_names + inputs;
  return frame;
}

bool ort_frame_dims(ort_frame *frame, size_t room) {
  if (room <= frame->room) return true;
  int64_t *dims = realloc(frame->dims, room * sizeof *dims);
  if (dims == NULL) return false;
  frame->dims = dims;
  frame->room = room;
  return true;
}

static void free_inputs(ort_frame *frame) {
  for (size_t i = 0; i < frame->inputs; i++) {
    if (frame->input_values[i] != NULL) CALL(ReleaseValue)(frame->input_values[i]);
    frame->input_values[i] = NULL;
  }
}

void ort_frame_clear(ort_frame *frame) {
  free_inputs(frame);
  for (size_t i = 0; i < frame->outputs; i++) {
    if (frame->output_values[i] != NULL) CALL(ReleaseValue)(frame->output_values[i]);
    frame->output_values[i] = NULL;
    if (frame->out[i].owned) free(frame->out[i].data);
    memset(&frame->out[i], 0, sizeof frame->out[i]);
  }
  frame->inputs = frame->outputs = 0;
}

void ort_frame_free(ort_frame *frame) {
  free(frame->dims);
  free(frame);
}

static uint32_t little_endian(const unsigned char *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

// fill_strings unpacks data into a string tensor. The number of elements was compared with the shape by the caller.
static OrtStatus *fill_strings(OrtValue *value, const ort_tensor *t) {
  const unsigned char *p = t->data, *end = p + t->size;
  for (size_t i = 0; p < end; i++) {
    if (end - p < 4) return CALL(CreateStatus)(code_invalid, "string element without a whole length");
    size_t size = little_endian(p);
    p += 4;
    if (size > (size_t)(end - p)) return CALL(CreateStatus)(code_invalid, "string element is cut off");
    char *buffer;
    // Not FillStringTensor: that one ends a string at its first zero byte.
    TRY(CALL(GetResizedStringTensorElementBuffer)(value, i, size, &buffer));
    memcpy(buffer, p, size);
    p += size;
  }
  return NULL;
}

static OrtStatus *make_value(const ort_tensor *t, OrtValue **out) {
  if (t->type != type_string)
    return CALL(CreateTensorWithDataAsOrtValue)(host, t->data, t->size, t->shape, t->rank, t->type, out);
  TRY(CALL(CreateTensorAsOrtValue)(allocator, t->shape, t->rank, t->type, out));
  return fill_strings(*out, t);
}

// pack_strings copies a string tensor out: content first to the end of one block, then forward in place, each element
// behind its length. Element i moves from 4n+offset to 4i+4+offset, never to the right of where it is.
static OrtStatus *pack_strings(const OrtValue *value, size_t count, ort_tensor *t) {
  if (count == 0) return NULL;
  size_t total;
  TRY(CALL(GetStringTensorDataLength)(value, &total));
  char *data = malloc(4 * count + total + 1);
  size_t *offsets = malloc(count * sizeof *offsets);
  if (data == NULL || offsets == NULL) {
    free(data);
    free(offsets);
    return out_of_memory();
  }
  OrtStatus *status = CALL(GetStringTensorContent)(value, data + 4 * count, total, offsets, count);
  if (status != NULL) {
    free(data);
    free(offsets);
    return status;
  }
  for (size_t i = 0; i < count; i++) {
    size_t size = (i + 1 < count ? offsets[i + 1] : total) - offsets[i];
    char *to = data + 4 * i + offsets[i];
    memmove(to + 4, data + 4 * count + offsets[i], size);
    to[0] = (char)size, to[1] = (char)(size >> 8), to[2] = (char)(size >> 16), to[3] = (char)(size >> 24);
  }
  free(offsets);
  t->data = data, t->size = 4 * count + total, t->owned = true;
  return NULL;
}

// keep copies an output whose memory is an input's: a graph that hands an input through unchanged gives the caller's own
// memory back, which is pinned only for the call.
static OrtStatus *keep(const ort_frame *frame, ort_tensor *t) {
  for (size_t i = 0; i < frame->inputs; i++) {
    const char *from = frame->in[i].data, *data = t->data;
    if (data < from || data >= from + frame->in[i].size) continue;
    char *copy = malloc(t->size);
    if (copy == NULL) return out_of_memory();
    memcpy(copy, data, t->size);
    t->data = copy, t->owned = true;
    return NULL;
  }
  return NULL;
}

static OrtStatus *read_output(const ort_frame *frame, size_t index) {
  ort_tensor *t = &frame->out[index];
  OrtValue *value = frame->output_values[index];
  int type;
  TRY(CALL(GetTensorElementTypeAndShapeDataReference)(value, &type, &t->shape, &t->rank));
  t->type = type;
  if (type != type_string) {
    TRY(CALL(GetTensorSizeInBytes)(value, &t->size));
    TRY(CALL(GetTensorMutableData)(value, &t->data));
    return keep(frame, t);
  }
  size_t count = 1;
  for (size_t i = 0; i < t->rank; i++) count *= (size_t)t->shape[i];
  return pack_strings(value, count, t);
}

static OrtStatus *run(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  for (size_t i = 0; i < frame->inputs; i++) TRY(make_value(&frame->in[i], &frame->input_values[i]));
  for (size_t i = 0; i < frame->outputs; i++)
    if (frame->out[i].data != NULL) TRY(make_value(&frame->out[i], &frame->output_values[i]));
  TRY(CALL(Run)(session, options, frame->input_names, (const OrtValue *const *)frame->input_values, frame->inputs,
                frame->output_names, frame->outputs, frame->output_values));
  for (size_t i = 0; i < frame->outputs; i++) TRY(read_output(frame, i));
  free_inputs(frame);
  return NULL;
}

OrtStatus *ort_run(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  OrtStatus *status = run(session, options, frame);
  if (status != NULL) ort_frame_clear(frame);
  return status;
}
