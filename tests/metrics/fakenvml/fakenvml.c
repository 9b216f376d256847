/* A scripted libnvidia-ml.so.1 for tests, so that production's own pynvml and ctypes code runs without a GPU.
 *
 * The script is the file named by FAKENVML_STATE; it is read again at every call, so replace it whole
 * (write beside it, then rename). One statement a line:
 *   count N                          devices enumerated
 *   gpu I KEY NUMBER                 a value; KEY is one of the members of struct values
 *   gpu I proc PID BYTES [GI]        a compute process; -1 bytes: the driver does not know
 *   gpu I lost CODE                  every call on the device answers with this nvmlReturn_t
 *   gpu I err FUNCTION CODE          one function answers with this code
 *   gpu I field ID CODE              one field value answers with this code
 *   gpu I link ID LINK NUMBER        value of a field that is counted by link
 *   gpu I hang FUNCTION              the function does not return while the script says so
 *   gpu I instance GI CI PROFILE TOTAL USED SM   a MIG instance, shown while mig is 1
 *   gpu I gpm 1                      the GPU has performance monitoring
 *   gpu I gpm GI METRIC PERCENT      a GPM metric of a GPU instance; the others are not supported
 *   gpu I xid SEQUENCE CODE          an Xid event; each sequence number is delivered once per process
 *   err FUNCTION CODE, hang FUNCTION the same for calls that have no device
 *   latency MICROSECONDS             every call takes so long
 *   latency FUNCTION MICROSECONDS    calls of this function take so long
 * If FAKENVML_CALLS names a file, every call is noted there: device (-1: none) and function.
 *
 * Compiled against NVIDIA's nvml.h (package nvidia-nvml-dev): the compiler compares each function here with
 * NVIDIA's declaration, and types and field numbers are NVIDIA's.
 * Built with -DFAKENVML_OLD the library lacks the symbols that came with CUDA 12.8, with
 * -DFAKENVML_NEW those that CUDA 14 removes. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include <time.h>

#include "script.h"

#define API __attribute__((visibility("default")))

static int initialised;

static void rest(long microseconds)
{
    if (microseconds > 0)
        nanosleep(&(struct timespec){ microseconds / 1000000, microseconds % 1000000 * 1000 }, NULL);
}

static void note(int gpu, const char *function)
{
    const char *path = getenv("FAKENVML_CALLS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%d %s\n", gpu, function);
    fclose(file);
}

static nvmlReturn_t enter(struct script *s, int gpu, const char *function)
{
    note(gpu, function);
    load(s);
    while (find(s, gpu, "hang", function)) {
        rest(5000);
        load(s);
    }
    const struct rule *latency = find(s, -1, "latency", function);
    rest(latency ? latency->code : s->latency_us);
    const struct rule *rule = find(s, gpu, "err", function);
    if (rule) return rule->code;
    return gpu >= 0 && s->lost[gpu] ? s->lost[gpu] : NVML_SUCCESS;
}

/* Handles are numbers: 0x1000 + GPU, and (1 + instance) * 0x100000 more for a MIG device. */
static int index_of(nvmlDevice_t device) { return (int)(((long)device & 0xFFFFF) - 0x1000); }
static int instance_of(nvmlDevice_t device) { return (int)((long)device >> 20) - 1; }

/* Every device call starts so: s is its script, i the GPU, v its values, mig the instance or NULL. */
#define DEVICE                                                                                                 \
    struct script script, *s = &script;                                                                        \
    if (!initialised) return NVML_ERROR_UNINITIALIZED;                                                         \
    int i = index_of(device), m = instance_of(device);                                                         \
    if (i < 0 || i >= MAX_GPUS || m >= MAX_INSTANCES) return NVML_ERROR_INVALID_ARGUMENT;                      \
    nvmlReturn_t code = enter(s, i, __func__);                                                                 \
    if (code) return code;                                                                                     \
    struct values *v = &s->gpu[i];                                                                             \
    struct instance *mig = m < 0 ? NULL : &s->instances[i][m];                                                 \
    if (mig && (!v->mig || m >= s->ninstances[i])) return NVML_ERROR_INVALID_ARGUMENT;                         \
    (void)v
/* What only the whole board has. */
#define WHOLE_DEVICE DEVICE; if (mig) return NVML_ERROR_NOT_SUPPORTED

API nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    struct script s;
    (void)flags;
    nvmlReturn_t code = enter(&s, -1, __func__);
    if (!code) initialised++;
    return code;
}

API nvmlReturn_t nvmlShutdown(void)
{
    if (!initialised) return NVML_ERROR_UNINITIALIZED;
    initialised--;
    return NVML_SUCCESS;
}

API const char *nvmlErrorString(nvmlReturn_t result)
{
    (void)result;
    return "scripted error";
}

API nvmlReturn_t nvmlSystemGetDriverVersion(char *text, unsigned int size)
{
    snprintf(text, size, "580.95.05");
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    struct script s;
    if (!initialised) return NVML_ERROR_UNINITIALIZED;
    nvmlReturn_t code = enter(&s, -1, __func__);
    *count = (unsigned int)s.count;
    return code;
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *handle)
{
    nvmlDevice_t device = (nvmlDevice_t)(0x1000L + index);
    DEVICE;
    if (i >= s->count) return NVML_ERROR_INVALID_ARGUMENT;
    *handle = device;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *text, unsigned int size)
{
    DEVICE;
    if (mig) snprintf(text, size, "NVIDIA H100 80GB HBM3 MIG %s", mig->profile);
    else snprintf(text, size, "NVIDIA H100 80GB HBM3");
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *text, unsigned int size)
{
    DEVICE;
    if (mig) snprintf(text, size, "MIG-00000000-0000-0000-%04d-%012u", i, mig->gi);
    else snprintf(text, size, "GPU-00000000-0000-0000-0000-%012lld", i + v->renamed);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info)
{
    WHOLE_DEVICE;
    memset(info, 0, sizeof *info);
    info->bus = 0x18 + (unsigned int)i;
    snprintf(info->busId, sizeof info->busId, "00000000:%02X:00.0", info->bus);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    WHOLE_DEVICE;
    if (v->mig) return NVML_ERROR_NOT_SUPPORTED;
    rates->gpu = (unsigned int)v->util;
    rates->memory = (unsigned int)v->memutil;
    return NVML_SUCCESS;
}

/* Version 1 counts the driver's reserve as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    DEVICE;
    memory->total = (unsigned long long)(mig ? mig->total : v->mem_total);
    memory->used = (unsigned long long)(mig ? mig->used : v->mem_used + v->mem_reserved);
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    DEVICE;
    if (memory->version != (sizeof *memory | 2 << 24)) return NVML_ERROR_INVALID_ARGUMENT;
    memory->total = (unsigned long long)(mig ? mig->total : v->mem_total);
    memory->reserved = mig ? 0 : (unsigned long long)v->mem_reserved;
    memory->used = (unsigned long long)(mig ? mig->used : v->mem_used);
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}

#define NUMBER(function, type, value)                                                                          \
    API nvmlReturn_t function(nvmlDevice_t device, type *out)                                                  \
    {                                                                                                          \
        WHOLE_DEVICE;                                                                                          \
        *out = (type)(value);                                                                                  \
        return NVML_SUCCESS;                                                                                        \
    }
NUMBER(nvmlDeviceGetPowerUsage, unsigned int, v->power_mw)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, v->limit_mw)
NUMBER(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, v->energy_mj)
#ifndef FAKENVML_OLD
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, v->events)

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *reading)
{
    WHOLE_DEVICE;
    if (reading->version != (sizeof *reading | 1 << 24) || reading->sensorType) return NVML_ERROR_INVALID_ARGUMENT;
    reading->temperature = (int)v->temp;
    return NVML_SUCCESS;
}
#endif
#ifndef FAKENVML_NEW
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, v->events)

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius)
{
    WHOLE_DEVICE;
    if (sensor) return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = (unsigned int)v->old_temp;
    return NVML_SUCCESS;
}
#endif

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t domain, unsigned int *megahertz)
{
    WHOLE_DEVICE;
    if (domain > NVML_CLOCK_VIDEO) return NVML_ERROR_INVALID_ARGUMENT;
    *megahertz = (unsigned int)(domain == 2 ? v->mem_mhz : v->sm_mhz);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    WHOLE_DEVICE;
    *current = *pending = (unsigned int)v->mig;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                          nvmlProcessInfo_t *list)
{
    DEVICE;
    unsigned int room = *count, have = 0;
    for (int n = 0; n < s->nprocs[i]; n++) {
        if (mig && s->procs[i][n].gi != mig->gi) continue;
        if (have < room && list)
            list[have] = (nvmlProcessInfo_t){
                .pid = s->procs[i][n].pid,
                .usedGpuMemory = (unsigned long long)s->procs[i][n].bytes,
                .gpuInstanceId = s->procs[i][n].gi,
                .computeInstanceId = 0xFFFFFFFF };
        have++;
    }
    *count = have;
    return have > room || (have && !list) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    WHOLE_DEVICE;
    *count = MAX_INSTANCES - 1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *handle)
{
    WHOLE_DEVICE;
    if (!v->mig) return NVML_ERROR_NOT_SUPPORTED;
    if ((int)index >= s->ninstances[i]) return NVML_ERROR_NOT_FOUND;
    *handle = (nvmlDevice_t)(0x1000L + i + ((index + 1L) << 20));
    return NVML_SUCCESS;
}

#define OF_INSTANCE(function, value)                                                                           \
    API nvmlReturn_t function(nvmlDevice_t device, unsigned int *id)                                           \
    {                                                                                                          \
        DEVICE;                                                                                                \
        if (!mig) return NVML_ERROR_NOT_SUPPORTED;                                                             \
        *id = value;                                                                                           \
        return NVML_SUCCESS;                                                                                   \
    }
OF_INSTANCE(nvmlDeviceGetGpuInstanceId, mig->gi)
OF_INSTANCE(nvmlDeviceGetComputeInstanceId, mig->ci)

API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    DEVICE;
    if (!mig) return NVML_ERROR_NOT_SUPPORTED;
    *attributes = (nvmlDeviceAttributes_t){ .multiprocessorCount = mig->sm };
    return NVML_SUCCESS;
}

#ifndef FAKENVML_OLD
/* A sample knows of whom it is; figures are the script's at the time of the question. One lost is noticed. */
struct nvmlGpmSample_st { int is_taken, gpu; unsigned int gi; };
static int gpm_samples;

API nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    WHOLE_DEVICE;
    if (support->version != NVML_GPM_SUPPORT_VERSION) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = (unsigned int)v->gpm;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    if (__atomic_add_fetch(&gpm_samples, 1, __ATOMIC_SEQ_CST) > 4 * MAX_INSTANCES) abort();
    *sample = calloc(1, sizeof **sample);
    return *sample ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

API nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    __atomic_sub_fetch(&gpm_samples, 1, __ATOMIC_SEQ_CST);
    free(sample);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gi, nvmlGpmSample_t sample)
{
    WHOLE_DEVICE;
    if (!v->gpm || !v->mig) return NVML_ERROR_NOT_SUPPORTED;
    for (int n = 0; n < s->ninstances[i]; n++)
        if (s->instances[i][n].gi == gi) {
            *sample = (struct nvmlGpmSample_st){ 1, i, gi };
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *asked)
{
    struct script s;
    const struct nvmlGpmSample_st *a = asked->sample1, *b = asked->sample2;
    if (asked->version != NVML_GPM_METRICS_GET_VERSION || a == b) return NVML_ERROR_INVALID_ARGUMENT;
    if (!a->is_taken || !b->is_taken || a->gpu != b->gpu || a->gi != b->gi) return NVML_ERROR_INVALID_ARGUMENT;
    nvmlReturn_t code = enter(&s, b->gpu, __func__);
    if (code) return code;
    for (unsigned int n = 0; n < asked->numMetrics; n++) {
        nvmlGpmMetric_t *metric = &asked->metrics[n];
        metric->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        metric->value = -1e300;
        for (int k = 0; k < s.ngpms; k++)
            if (s.gpms[k].gpu == b->gpu && s.gpms[k].gi == b->gi && s.gpms[k].metric == metric->metricId) {
                metric->nvmlReturn = NVML_SUCCESS;
                metric->value = s.gpms[k].value;
            }
    }
    return NVML_SUCCESS;
}
#endif

/* One event set at a time is enough; its handle is its number, so that one freed twice is noticed. */
static struct { long number; int is_open, watched[MAX_GPUS]; long long delivered; } events;

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    struct script s;
    nvmlReturn_t code = enter(&s, -1, __func__);
    if (code) return code;
    if (events.is_open) abort(); /* the last one was not freed */
    events.is_open = 1;
    memset(events.watched, 0, sizeof events.watched);
    *set = (nvmlEventSet_t)(++events.number);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long kinds, nvmlEventSet_t set)
{
    WHOLE_DEVICE;
    if ((long)set != events.number || kinds != nvmlEventTypeXidCriticalError) return NVML_ERROR_INVALID_ARGUMENT;
    events.watched[i] = 1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    if ((long)set != events.number || !events.is_open) abort();
    events.is_open = 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    if ((long)set != events.number || !events.is_open) return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int waited_ms = 0;; waited_ms += 5) {
        struct script s;
        nvmlReturn_t code = enter(&s, -1, __func__);
        if (code) return code;
        for (int n = 0; n < s.nxids; n++) {
            const struct xid *x = &s.xids[n];
            if (x->sequence <= events.delivered || !events.watched[x->gpu]) continue;
            events.delivered = x->sequence;
            *data = (nvmlEventData_t){ .device = (nvmlDevice_t)(0x1000L + x->gpu),
                                       .eventType = nvmlEventTypeXidCriticalError, .eventData = x->code,
                                       .gpuInstanceId = 0xFFFFFFFF, .computeInstanceId = 0xFFFFFFFF };
            return NVML_SUCCESS;
        }
        for (int i = 0; i < MAX_GPUS; i++)
            if (events.watched[i] && s.lost[i]) return NVML_ERROR_GPU_IS_LOST;
        if (waited_ms >= timeout_ms) return NVML_ERROR_TIMEOUT;
        rest(5000);
    }
}

static void as_uint(nvmlFieldValue_t *f, long long n)
{
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    f->value.uiVal = (unsigned int)n;
}

static void as_ullong(nvmlFieldValue_t *f, long long n)
{
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    f->value.ullVal = (unsigned long long)n;
}

/* The union is filled with ones first: a reader of the wrong member sees nonsense. */
static void field(const struct script *s, int i, nvmlFieldValue_t *f)
{
    const struct values *v = &s->gpu[i];
    char id[16];
    snprintf(id, sizeof id, "%u", f->fieldId);
    const struct rule *rule = find(s, i, "field", id);
    memset(&f->value, 0xFF, sizeof f->value);
    f->nvmlReturn = rule ? (nvmlReturn_t)rule->code : NVML_SUCCESS;
    f->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
    if (rule) return;
    for (int n = 0; n < s->nlinks; n++)
        if (s->links[n].gpu == i && s->links[n].field == f->fieldId && s->links[n].link == f->scopeId) {
            as_ullong(f, s->links[n].value);
            return;
        }
    switch (f->fieldId) {
    case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: as_ullong(f, v->ecc_sbe_vol); break;
    case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: as_ullong(f, v->ecc_dbe_vol); break;
    case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: as_ullong(f, v->ecc_sbe_agg); break;
    case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: as_ullong(f, v->ecc_dbe_agg); break;
    case NVML_FI_DEV_RETIRED_SBE: as_uint(f, v->retired_sbe); break;
    case NVML_FI_DEV_RETIRED_DBE: as_uint(f, v->retired_dbe); break;
    case NVML_FI_DEV_RETIRED_PENDING: as_uint(f, v->retired_pending); break;
    case NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL: as_ullong(f, v->crc_flit); break;
    case NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL: as_ullong(f, v->crc_data); break;
    case NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL: as_ullong(f, v->link_replay); break;
    case NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL: as_ullong(f, v->link_recovery); break;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP: as_ullong(f, v->power_cap_ns); break;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST: as_ullong(f, v->sync_boost_ns); break;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: as_ullong(f, v->sw_thermal_ns); break;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN: as_ullong(f, v->hw_thermal_ns); break;
    case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN: as_ullong(f, v->power_brake_ns); break;
    case NVML_FI_DEV_MEMORY_TEMP: as_uint(f, v->mem_temp); break;
    case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: as_ullong(f, v->energy_mj); break;
    case NVML_FI_DEV_NVLINK_LINK_COUNT: as_uint(f, v->nvlinks); break;
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER: as_uint(f, v->pcie_replay); break;
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX:
        f->scopeId == 0xFFFFFFFF ? as_ullong(f, v->nvlink_tx_kib) : as_ullong(f, v->nvlink_tx_kib / 18);
        break;
    case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX:
        f->scopeId == 0xFFFFFFFF ? as_ullong(f, v->nvlink_rx_kib) : as_ullong(f, v->nvlink_rx_kib / 18);
        break;
    case NVML_FI_DEV_REMAPPED_COR: as_uint(f, v->remap_cor); break;
    case NVML_FI_DEV_REMAPPED_UNC: as_uint(f, v->remap_unc); break;
    case NVML_FI_DEV_REMAPPED_PENDING: as_uint(f, v->remap_pending); break;
    case NVML_FI_DEV_REMAPPED_FAILURE: as_uint(f, v->remap_failure); break;
    case NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS: as_uint(f, v->pcie_correctable); break;
    case NVML_FI_DEV_PCIE_COUNT_NON_FATAL_ERROR: as_uint(f, v->pcie_non_fatal); break;
    case NVML_FI_DEV_PCIE_COUNT_FATAL_ERROR: as_uint(f, v->pcie_fatal); break;
    case NVML_FI_DEV_POWER_INSTANT: as_uint(f, v->instant_mw); break;
    case NVML_FI_DEV_PCIE_COUNT_TX_BYTES: as_ullong(f, v->pcie_tx); break;
    case NVML_FI_DEV_PCIE_COUNT_RX_BYTES: as_ullong(f, v->pcie_rx); break;
    case NVML_FI_DEV_GET_GPU_RECOVERY_ACTION: as_uint(f, v->recovery); break;
    default: f->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    }
}

API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    WHOLE_DEVICE;
    for (int n = 0; n < count; n++) field(s, i, &values[n]);
    return NVML_SUCCESS;
}
