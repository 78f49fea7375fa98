/* A test double of libnvidia-ml.so.1: the entry points that finetui asks for through pynvml.
 *
 * State is read from the file $FAKE_NVML_STATE at each call, so that a test can change it:
 *   line 1:      <devices> <error code of the driver, 0 for none>
 *   per device:  name;uuid;utilisation;total;used;temperature;power mW;limit mW;error;processes
 * where processes is "-" or "pid:bytes,pid:bytes". An error code on a device (15 = lost) is what
 * each of its calls returns. A number of -1 makes the call answer "not supported".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef unsigned long long u64;

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, NOT_LOADED = 9 };

typedef struct { u32 gpu, memory; } utilization_t;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { u32 pid; u64 used; u32 gpu_instance, compute_instance; } process_t;
typedef struct {
    char name[96], uuid[96], processes[256];
    long long utilisation, total, used, temperature, power, limit;
    int error;
} device_t;

static device_t devices[16];
static int count, driver_error, initialized;

static int load(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    count = 0;
    driver_error = NOT_LOADED;
    if (!file) return driver_error;
    int wanted = 0;
    if (fscanf(file, "%d %d\n", &wanted, &driver_error) != 2) driver_error = 999;
    while (count < wanted && count < 16) {
        device_t *d = devices + count;
        int read = fscanf(
            file, "%95[^;];%95[^;];%lld;%lld;%lld;%lld;%lld;%lld;%d;%255s\n", d->name, d->uuid,
            &d->utilisation, &d->total, &d->used, &d->temperature, &d->power, &d->limit, &d->error,
            d->processes);
        if (read != 10) break;
        count++;
    }
    fclose(file);
    return driver_error;
}

static int ask(void *handle, device_t **device) {
    if (!initialized) return UNINITIALIZED;
    if (load()) return driver_error;
    long index = (long)handle - 1;
    if (index < 0 || index >= count) return INVALID;
    *device = devices + index;
    return (*device)->error;
}

static int number(void *handle, size_t field, u32 *out) {
    device_t *d;
    int error = ask(handle, &d);
    if (error) return error;
    long long value = *(long long *)((char *)d + field);
    if (value < 0) return NOT_SUPPORTED;
    *out = (u32)value;
    return OK;
}

#define FIELD(name) ((size_t) & ((device_t *)0)->name)

int nvmlInitWithFlags(u32 flags) {
    (void)flags;
    if (load()) return driver_error;
    initialized = 1;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { initialized = 0; return OK; }
const char *nvmlErrorString(int code) {
    return code == 15 ? "GPU is lost" : code == NOT_LOADED ? "Driver Not Loaded" : "Unknown Error";
}
int nvmlSystemGetDriverVersion(char *out, u32 size) { snprintf(out, size, "999.0-fake"); return OK; }
int nvmlDeviceGetCount_v2(u32 *out) {
    if (!initialized) return UNINITIALIZED;
    if (load()) return driver_error;
    *out = (u32)count;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(u32 index, void **out) {
    if (!initialized) return UNINITIALIZED;
    if (load()) return driver_error;
    if ((int)index >= count) return INVALID;
    *out = (void *)(long)(index + 1);
    return OK;
}
int nvmlDeviceGetName(void *h, char *out, u32 size) {
    device_t *d;
    int error = ask(h, &d);
    if (!error) snprintf(out, size, "%s", d->name);
    return error;
}
int nvmlDeviceGetUUID(void *h, char *out, u32 size) {
    device_t *d;
    int error = ask(h, &d);
    if (!error) snprintf(out, size, "%s", d->uuid);
    return error;
}
int nvmlDeviceGetUtilizationRates(void *h, utilization_t *out) {
    out->memory = 0;
    return number(h, FIELD(utilisation), &out->gpu);
}
int nvmlDeviceGetMemoryInfo(void *h, memory_t *out) {
    device_t *d;
    int error = ask(h, &d);
    if (error) return error;
    if (d->total < 0) return NOT_SUPPORTED;
    out->total = (u64)d->total;
    out->used = (u64)d->used;
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetTemperature(void *h, int sensor, u32 *out) {
    (void)sensor;
    return number(h, FIELD(temperature), out);
}
int nvmlDeviceGetPowerUsage(void *h, u32 *out) { return number(h, FIELD(power), out); }
int nvmlDeviceGetEnforcedPowerLimit(void *h, u32 *out) { return number(h, FIELD(limit), out); }
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, u32 *size, process_t *out) {
    device_t *d;
    int error = ask(h, &d);
    if (error) return error;
    u32 found = 0;
    char *text = d->processes;
    while (*text && *text != '-') {
        u32 pid = (u32)strtoul(text, &text, 10);
        u64 used = *text == ':' ? strtoull(text + 1, &text, 10) : 0;
        if (out && found < *size) out[found] = (process_t){pid, used, 0, 0};
        found++;
        if (*text != ',') break;
        text++;
    }
    error = found > *size ? TOO_SMALL : OK;
    *size = found;
    return error;
}
/* nvmlDeviceGetGraphicsRunningProcesses_v3 is absent on purpose: an old driver lacks functions. */
