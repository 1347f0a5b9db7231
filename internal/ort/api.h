// The part of ONNX Runtime's C interface that this package calls, written from its public documentation. OrtApi is a
// table of function pointers that only ever grows at its end: an entry's number never changes, so a number and a
// signature are all that a caller needs. The numbers are those of API version 24 (ONNX Runtime 1.24 and later).
#ifndef PENSTOCK_ORT_API_H
#define PENSTOCK_ORT_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 24

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtThreadingOptions OrtThreadingOptions;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtShapeInfo OrtShapeInfo; // OrtTensorTypeAndShapeInfo
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtKeyValuePairs OrtKeyValuePairs;
typedef struct OrtPrepacked OrtPrepacked; // OrtPrepackedWeightsContainer

typedef void (*ort_log_function)(void *param, int severity, const char *category, const char *logid,
                                 const char *location, const char *message);

typedef struct {
  const void *const *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

// One line per entry: its number in the table, what it returns, its name, what it takes.
#define ORT_FUNCTIONS(F)                                                                                               \
  F(0, OrtStatus *, CreateStatus, (int, const char *))                                                                 \
  F(1, int, GetErrorCode, (const OrtStatus *))                                                                         \
  F(2, const char *, GetErrorMessage, (const OrtStatus *))                                                             \
  F(7, OrtStatus *, CreateSession, (const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **))           \
  F(8, OrtStatus *, CreateSessionFromArray,                                                                            \
    (const OrtEnv *, const void *, size_t, const OrtSessionOptions *, OrtSession **))                                  \
  F(9, OrtStatus *, Run,                                                                                               \
    (OrtSession *, const OrtRunOptions *, const char *const *, const OrtValue *const *, size_t, const char *const *,   \
     size_t, OrtValue **))                                                                                             \
  F(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **))                                                     \
  F(11, OrtStatus *, SetOptimizedModelFilePath, (OrtSessionOptions *, const char *))                                   \
  F(13, OrtStatus *, SetSessionExecutionMode, (OrtSessionOptions *, int))                                              \
  F(14, OrtStatus *, EnableProfiling, (OrtSessionOptions *, const char *))                                             \
  F(17, OrtStatus *, DisableMemPattern, (OrtSessionOptions *))                                                         \
  F(19, OrtStatus *, DisableCpuMemArena, (OrtSessionOptions *))                                                        \
  F(20, OrtStatus *, SetSessionLogId, (OrtSessionOptions *, const char *))                                             \
  F(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int))                                     \
  F(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int))                                                 \
  F(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int))                                                 \
  F(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *))                                             \
  F(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *))                                            \
  F(32, OrtStatus *, SessionGetOverridableInitializerCount, (const OrtSession *, size_t *))                            \
  F(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))                            \
  F(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))                           \
  F(35, OrtStatus *, SessionGetOverridableInitializerTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))           \
  F(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t, OrtAllocator *, char **))                       \
  F(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t, OrtAllocator *, char **))                      \
  F(38, OrtStatus *, SessionGetOverridableInitializerName, (const OrtSession *, size_t, OrtAllocator *, char **))      \
  F(39, OrtStatus *, CreateRunOptions, (OrtRunOptions **))                                                             \
  F(41, OrtStatus *, RunOptionsSetRunLogSeverityLevel, (OrtRunOptions *, int))                                         \
  F(42, OrtStatus *, RunOptionsSetRunTag, (OrtRunOptions *, const char *))                                             \
  F(46, OrtStatus *, RunOptionsSetTerminate, (OrtRunOptions *))                                                        \
  F(47, OrtStatus *, RunOptionsUnsetTerminate, (OrtRunOptions *))                                                      \
  F(48, OrtStatus *, CreateTensorAsOrtValue, (OrtAllocator *, const int64_t *, size_t, int, OrtValue **))              \
  F(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                                                   \
    (const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int, OrtValue **))                                \
  F(50, OrtStatus *, IsTensor, (const OrtValue *, int *))                                                              \
  F(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                                      \
  F(53, OrtStatus *, GetStringTensorDataLength, (const OrtValue *, size_t *))                                          \
  F(54, OrtStatus *, GetStringTensorContent, (const OrtValue *, void *, size_t, size_t *, size_t))                     \
  F(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtShapeInfo **))                           \
  F(56, OrtStatus *, GetOnnxTypeFromTypeInfo, (const OrtTypeInfo *, int *))                                            \
  F(60, OrtStatus *, GetTensorElementType, (const OrtShapeInfo *, int *))                                              \
  F(61, OrtStatus *, GetDimensionsCount, (const OrtShapeInfo *, size_t *))                                             \
  F(62, OrtStatus *, GetDimensions, (const OrtShapeInfo *, int64_t *, size_t))                                         \
  F(63, OrtStatus *, GetSymbolicDimensions, (const OrtShapeInfo *, const char **, size_t))                             \
  F(69, OrtStatus *, CreateCpuMemoryInfo, (int, int, OrtMemoryInfo **))                                                \
  F(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *))                                                          \
  F(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **))                                                \
  F(92, void, ReleaseEnv, (OrtEnv *))                                                                                  \
  F(93, void, ReleaseStatus, (OrtStatus *))                                                                            \
  F(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                                                    \
  F(95, void, ReleaseSession, (OrtSession *))                                                                          \
  F(96, void, ReleaseValue, (OrtValue *))                                                                              \
  F(97, void, ReleaseRunOptions, (OrtRunOptions *))                                                                    \
  F(98, void, ReleaseTypeInfo, (OrtTypeInfo *))                                                                        \
  F(100, void, ReleaseSessionOptions, (OrtSessionOptions *))                                                           \
  F(110, OrtStatus *, SessionEndProfiling, (OrtSession *, OrtAllocator *, char **))                                    \
  F(120, OrtStatus *, DisablePerSessionThreads, (OrtSessionOptions *))                                                 \
  F(121, OrtStatus *, CreateThreadingOptions, (OrtThreadingOptions **))                                                \
  F(122, void, ReleaseThreadingOptions, (OrtThreadingOptions *))                                                       \
  F(124, OrtStatus *, AddFreeDimensionOverrideByName, (OrtSessionOptions *, const char *, int64_t))                    \
  F(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *, const char *))                        \
  F(131, OrtStatus *, CreateAllocator, (const OrtSession *, const OrtMemoryInfo *, OrtAllocator **))                   \
  F(132, void, ReleaseAllocator, (OrtAllocator *))                                                                     \
  F(147, OrtStatus *, SetGlobalIntraOpNumThreads, (OrtThreadingOptions *, int))                                        \
  F(148, OrtStatus *, SetGlobalInterOpNumThreads, (OrtThreadingOptions *, int))                                        \
  F(149, OrtStatus *, SetGlobalSpinControl, (OrtThreadingOptions *, int))                                              \
  F(151, OrtStatus *, CreateEnvWithCustomLoggerAndGlobalThreadPools,                                                   \
    (ort_log_function, void *, int, const char *, const OrtThreadingOptions *, OrtEnv **))                             \
  F(165, OrtStatus *, AddRunConfigEntry, (OrtRunOptions *, const char *, const char *))                                \
  F(166, OrtStatus *, CreatePrepackedWeightsContainer, (OrtPrepacked **))                                              \
  F(167, void, ReleasePrepackedWeightsContainer, (OrtPrepacked *))                                                     \
  F(168, OrtStatus *, CreateSessionWithPrepackedWeightsContainer,                                                      \
    (const OrtEnv *, const char *, const OrtSessionOptions *, OrtPrepacked *, OrtSession **))                          \
  F(169, OrtStatus *, CreateSessionFromArrayWithPrepackedWeightsContainer,                                             \
    (const OrtEnv *, const void *, size_t, const OrtSessionOptions *, OrtPrepacked *, OrtSession **))                  \
  F(252, OrtStatus *, GetResizedStringTensorElementBuffer, (OrtValue *, size_t, size_t, char **))                      \
  F(254, const char *, GetBuildInfoString, (void))                                                                     \
  F(273, OrtStatus *, SetDeterministicCompute, (OrtSessionOptions *, bool))                                            \
  F(293, OrtStatus *, SessionOptionsSetLoadCancellationFlag, (OrtSessionOptions *, bool))                              \
  F(298, void, GetKeyValuePairs,                                                                                       \
    (const OrtKeyValuePairs *, const char *const **, const char *const **, size_t *))                                  \
  F(300, void, ReleaseKeyValuePairs, (OrtKeyValuePairs *))                                                             \
  F(318, OrtStatus *, GetTensorSizeInBytes, (const OrtValue *, size_t *))                                              \
  F(319, OrtStatus *, AllocatorGetStats, (const OrtAllocator *, OrtKeyValuePairs **))                                  \
  F(390, bool, TensorTypeAndShape_HasShape, (const OrtShapeInfo *))                                                    \
  F(414, OrtStatus *, GetTensorElementTypeAndShapeDataReference,                                                       \
    (const OrtValue *, int *, const int64_t **, size_t *))

#define ORT_INDEX(number, result, name, parameters) index_##name = number,
enum { ORT_FUNCTIONS(ORT_INDEX) };
#undef ORT_INDEX

#define ORT_TYPE(number, result, name, parameters) typedef result(*type_##name) parameters;
ORT_FUNCTIONS(ORT_TYPE)
#undef ORT_TYPE

#endif
