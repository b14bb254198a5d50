"""Profile of a training step: kernels by name, their number, and the time that the GPU waits for the host."""

from collections import defaultdict

from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from fr.distributed import open_ranks
from fr.train.replicas import deterministic
from tests.gpu.job import Job
from tests.gpu.steps import our_step

_ROWS = 10


def check(job: Job) -> None:
    """Kernels of five steps of mobilenet in fr's best form; on a CPU, operators."""
    with open_ranks(job.device.type), deterministic(False):
        step, number = our_step(job.device, "mobilenet", job.pick(512, 2)), job.pick(5, 2)

        def steps() -> None:
            for iteration in range(number):
                step(iteration)

        steps()
        seconds = job.seconds(steps)  # of the host too: under the profiler each launch takes longer
        with profile(activities=[ProfilerActivity.CPU, *job.pick([ProfilerActivity.CUDA], [])]) as profiler:
            steps()
            job.synchronize()
    ran = device_events(job, list(profiler.events() or ()))
    job.findings.claim("the profiler saw the steps", len(ran) >= number, f"{len(ran)} events")
    job.findings.metric("time of a step", seconds / number * 1e3, "ms")
    job.findings.metric(f"{job.pick('kernels', 'operators')} a step", len(ran) / number)
    job.findings.metric("share of time that the device is busy", busy_seconds(ran) / seconds * 100, "%")
    for place, (name, share) in enumerate(most_time(ran).items(), start=1):
        job.findings.metric(f"{job.pick('kernel', 'operator')} {place}", f"{share:.1%}", f"of their time: {name[:90]}")


def device_events(job: Job, events: list[FunctionEvent]) -> list[FunctionEvent]:
    """Kernels, copies and fills on the GPU, without the ranges that the profiler draws around them; on a CPU, the
    operators that call no other."""
    if job.on_gpu:
        return [event for event in events if event.device_type == DeviceType.CUDA and not event.is_user_annotation]
    return [event for event in events if event.device_type == DeviceType.CPU and not event.cpu_children]


def busy_seconds(events: list[FunctionEvent]) -> float:
    """Length of the union of the events' times, which may overlap: kernels run on several streams."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((event.time_range.start, event.time_range.end) for event in events):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total / 1e6  # from microseconds


def most_time(events: list[FunctionEvent]) -> dict[str, float]:
    """The names with the most time, and their share of the time of all."""
    times: defaultdict[str, float] = defaultdict(float)
    for event in events:
        times[event.name] += event.time_range.elapsed_us()
    first = sorted(times, key=lambda name: -times[name])[:_ROWS]
    return {name: times[name] / sum(times.values()) for name in first}
