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

ort_frame *ort_frame_new(size_t inputs, size_t outputs, uint64_t canary) {
  // One block: the frame, then its arrays, all of pointer-sized members.
  size_t one = sizeof(char *) + sizeof(OrtValue *) + sizeof(ort_tensor) + sizeof(ort_kept);
  ort_frame *frame = calloc(1, sizeof(ort_frame) + (inputs + outputs) * one);
  if (frame == NULL) return NULL;
  frame->canary = canary;
  frame->in = (ort_tensor *)(frame + 1);
  frame->out = frame->in + inputs;
  frame->kept_in = (ort_kept *)(frame->out + outputs);
  frame->kept_out = frame->kept_in + inputs;
  frame->input_values = (OrtValue **)(frame->kept_out + outputs);
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

// let_go takes a value out of a call; one that is kept stays with the frame.
static void let_go(OrtValue **value, const ort_kept *kept) {
  if (*value != NULL && *value != kept->value) CALL(ReleaseValue)(*value);
  *value = NULL;
}

static void free_inputs(ort_frame *frame) {
  for (size_t i = 0; i < frame->inputs; i++) let_go(&frame->input_values[i], &frame->kept_in[i]);
}

static void free_outputs(ort_frame *frame) {
  for (size_t i = 0; i < frame->outputs; i++) {
    let_go(&frame->output_values[i], &frame->kept_out[i]);
    if (frame->out[i].owned) free(frame->out[i].data);
    memset(&frame->out[i], 0, sizeof frame->out[i]);
  }
}

void ort_frame_clear(ort_frame *frame) {
  free_inputs(frame);
  free_outputs(frame);
  frame->inputs = frame->outputs = 0;
}

static void drop(ort_kept *kept) {
  if (kept->value != NULL) CALL(ReleaseValue)(kept->value);
  memset(kept, 0, sizeof *kept);
}

static void unbind(ort_frame *frame) {
  for (size_t i = 0; i < frame->bound_outputs; i++) drop(&frame->kept_out[i]);
  frame->bound_outputs = 0;
}

void ort_frame_free(ort_frame *frame) {
  unbind(frame);
  for (ort_kept *kept = frame->kept_in; kept < frame->kept_out; kept++) drop(kept);
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

static bool keeps(const ort_kept *kept, const char *name, const ort_tensor *t) {
  return kept->value != NULL && kept->name == name && kept->type == t->type && kept->size == t->size &&
         kept->rank == t->rank && (t->rank == 0 || memcmp(kept->shape, t->shape, t->rank * sizeof *t->shape) == 0);
}

static OrtStatus *fill_kept(ort_kept *kept, const char *name) {
  int type;
  TRY(CALL(GetTensorElementTypeAndShapeDataReference)(kept->value, &type, &kept->shape, &kept->rank));
  TRY(CALL(GetTensorSizeInBytes)(kept->value, &kept->size));
  TRY(CALL(GetTensorMutableData)(kept->value, &kept->data));
  kept->type = type, kept->name = name;
  return NULL;
}

// give makes an input's value. A small one is copied into a value that stays for the next call: the copy costs less
// than making and freeing a value. small is cleared when it is not, same when it differs from the last call's in name,
// type or shape.
static OrtStatus *give(ort_frame *frame, size_t i, bool *small, bool *same) {
  ort_tensor *t = &frame->in[i];
  ort_kept *kept = &frame->kept_in[i];
  if (t->type == type_string || t->size == 0 || t->size > ORT_KEEP_LIMIT) {
    *small = *same = false;
    return make_value(t, &frame->input_values[i]);
  }
  if (!keeps(kept, frame->input_names[i], t)) {
    *same = false;
    drop(kept);
    TRY(CALL(CreateTensorAsOrtValue)(allocator, t->shape, t->rank, t->type, &kept->value));
    OrtStatus *status = fill_kept(kept, frame->input_names[i]);
    if (status == NULL && kept->size != t->size)
      status = CALL(CreateStatus)(code_invalid, "the tensor's size is not that of its shape");
    if (status != NULL) {
      drop(kept);
      return status;
    }
  }
  memcpy(kept->data, t->data, t->size);
  frame->input_values[i] = kept->value;
  t->data = kept->data; // where an output that is this input has its memory
  return NULL;
}

// lend hands the last call's outputs to this one, which has inputs of the same shapes, to be written again. It marks
// each: see written.
static void lend(ort_frame *frame) {
  for (size_t i = 0; i < frame->outputs; i++) {
    ort_kept *kept = &frame->kept_out[i];
    memcpy(kept->data, &frame->canary, sizeof frame->canary);
    frame->output_values[i] = kept->value;
  }
}

static bool bindable(const ort_frame *frame, bool same) {
  if (!same || frame->bound_outputs == 0 || frame->bound_inputs != frame->inputs ||
      frame->bound_outputs != frame->outputs)
    return false;
  for (size_t i = 0; i < frame->outputs; i++)
    if (frame->out[i].data != NULL || frame->kept_out[i].name != frame->output_names[i]) return false;
  return true;
}

// written says whether every bound output was written. A graph may give a tensor of its own in place of the bound one (a
// branch that hands a value through), of which Run's caller is not told; the bound memory then holds an earlier answer,
// maybe another caller's. A first element that happens to be the mark costs a second run and nothing else.
static bool written(const ort_frame *frame) {
  for (size_t i = 0; i < frame->outputs; i++)
    if (memcmp(frame->kept_out[i].data, &frame->canary, sizeof frame->canary) == 0) return false;
  return true;
}

// keep_outputs makes values like the outputs, for the next call to write to, if all are small. The outputs themselves will
// not do: their memory may be an initializer's.
static OrtStatus *keep_outputs(ort_frame *frame) {
  for (size_t i = 0; i < frame->outputs; i++) {
    const ort_tensor *t = &frame->out[i];
    if (t->type == type_string || t->owned || t->size < sizeof frame->canary || t->size > ORT_KEEP_LIMIT) return NULL;
  }
  for (size_t i = 0; i < frame->outputs; i++) {
    const ort_tensor *t = &frame->out[i];
    ort_kept *kept = &frame->kept_out[i];
    frame->bound_outputs = i + 1;
    OrtStatus *status = CALL(CreateTensorAsOrtValue)(allocator, t->shape, t->rank, t->type, &kept->value);
    if (status == NULL) status = fill_kept(kept, frame->output_names[i]);
    if (status != NULL) {
      unbind(frame);
      return status;
    }
  }
  frame->bound_inputs = frame->inputs;
  return NULL;
}

static OrtStatus *call(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  return CALL(Run)(session, options, frame->input_names, (const OrtValue *const *)frame->input_values, frame->inputs,
                   frame->output_names, frame->outputs, frame->output_values);
}

// run_bound runs with the last call's outputs. false: run again without; an error may come from the binding alone, as
// shapes may depend on what is in the inputs.
static bool run_bound(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  lend(frame);
  OrtStatus *status = call(session, options, frame);
  if (status == NULL && written(frame)) return true;
  ort_status_drop(status);
  for (size_t i = 0; i < frame->outputs; i++) frame->output_values[i] = NULL; // unbind frees them
  return false;
}

static OrtStatus *run(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  bool small = true, same = true;
  for (size_t i = 0; i < frame->inputs; i++) TRY(give(frame, i, &small, &same));
  bool binds = bindable(frame, same);
  if (!binds || !run_bound(session, options, frame)) {
    unbind(frame);
    bool given = false;
    for (size_t i = 0; i < frame->outputs; i++) {
      if (frame->out[i].data == NULL) continue;
      given = true;
      TRY(make_value(&frame->out[i], &frame->output_values[i]));
    }
    TRY(call(session, options, frame));
    if (binds) frame->canary = 0; // it runs, but not into given memory
    for (size_t i = 0; i < frame->outputs; i++) TRY(read_output(frame, i));
    if (small && !given && frame->canary != 0) TRY(keep_outputs(frame));
  } else {
    for (size_t i = 0; i < frame->outputs; i++) TRY(read_output(frame, i));
  }
  free_inputs(frame);
  return NULL;
}

OrtStatus *ort_run(OrtSession *session, const OrtRunOptions *options, ort_frame *frame) {
  OrtStatus *status = run(session, options, frame);
  if (status != NULL) ort_frame_clear(frame);
  return status;
}
