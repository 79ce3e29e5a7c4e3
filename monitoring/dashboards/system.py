"""The dashboard "System": the machines below the service, by node-exporter and dcgm-exporter."""

from monitoring.dashboards.definition import NODE, Dashboard, Query, Threshold, chart, section, stat
from monitoring.dashboards.promql import or_zero, rate

FULL = (Threshold(0.8, "orange"), Threshold(0.9, "red"))
DISKS = f'{NODE},fstype!~"tmpfs|ramfs|squashfs|iso9660|erofs"'
CARDS = f'{NODE},device!~"lo|veth.*|cali.*|cni.*|docker.*|br-.*"'
"""Network cards, without those that containers talk through."""

BUSY = (
    f'1 - avg by (instance) (rate(node_cpu_seconds_total{{{NODE},mode="idle"}}[$__rate_interval]))'
)
MEMORY = (
    f"max by (instance) (1 - node_memory_MemAvailable_bytes{{{NODE}}} "
    f"/ node_memory_MemTotal_bytes{{{NODE}}})"
)
DISK = f"(1 - node_filesystem_avail_bytes{{{DISKS}}} / node_filesystem_size_bytes{{{DISKS}}})"
LOAD = (
    f"max by (instance) (node_load1{{{NODE}}}) "
    f'/ count by (instance) (node_cpu_seconds_total{{{NODE},mode="idle"}})'
)
UPTIME = f"max by (instance) (node_time_seconds{{{NODE}}} - node_boot_time_seconds{{{NODE}}})"

NOW = section(
    "Now",
    stat("CPU", "Busy share of all cores.", "percentunit", Query(BUSY, "{{instance}}"), FULL),
    stat(
        "Memory",
        "Share of the memory that is in use.",
        "percentunit",
        Query(MEMORY, "{{instance}}"),
        FULL,
    ),
    stat(
        "Fullest disk",
        "Used share of the fullest file system; DiskFilling warns before it is full.",
        "percentunit",
        Query(f"max by (instance) ({DISK})", "{{instance}}"),
        FULL,
    ),
    stat(
        "Load a core",
        "Runnable processes per core; above 1 they wait.",
        "short",
        Query(LOAD, "{{instance}}"),
        (Threshold(1, "orange"), Threshold(2, "red")),
    ),
    stat("Uptime", "Time since the machine started.", "s", Query(UPTIME, "{{instance}}")),
    stat(
        "Targets that do not answer",
        "Targets that Prometheus cannot scrape; the panel Targets names them.",
        "short",
        Query(or_zero("count(up == 0)"), "now"),
        (Threshold(1, "red"),),
    ),
)

MACHINE = section(
    "Machine",
    chart("CPU", "Busy share of the cores.", "percentunit", Query(BUSY, "{{instance}}"), maximum=1),
    chart(
        "Load a core",
        "Runnable processes per core; above 1 they wait.",
        "short",
        Query(LOAD, "{{instance}}"),
    ),
    chart(
        "Memory",
        "Used memory, and all memory.",
        "bytes",
        Query(
            f"max by (instance) (node_memory_MemTotal_bytes{{{NODE}}} "
            f"- node_memory_MemAvailable_bytes{{{NODE}}})",
            "{{instance}}",
        ),
        Query(
            f"max by (instance) (node_memory_MemTotal_bytes{{{NODE}}})",
            "all of {{instance}}",
            "dashed",
        ),
    ),
    chart(
        "Disk space",
        "Share of each file system that is used.",
        "percentunit",
        Query(f"max by (instance, mountpoint) ({DISK})", "{{instance}} {{mountpoint}}"),
        thresholds=FULL,
        maximum=1,
    ),
    chart(
        "Disk traffic",
        "Bytes that are read from and written to the disks.",
        "Bps",
        Query(rate("node_disk_read_bytes_total", NODE, "instance"), "read {{instance}}"),
        Query(rate("node_disk_written_bytes_total", NODE, "instance"), "write {{instance}}"),
    ),
    chart(
        "Network",
        "Bytes in and out, not among containers; with compose, only those of node-exporter.",
        "Bps",
        Query(rate("node_network_receive_bytes_total", CARDS, "instance"), "in {{instance}}"),
        Query(rate("node_network_transmit_bytes_total", CARDS, "instance"), "out {{instance}}"),
    ),
)

# Its exporter has another port than node-exporter, in a cluster another name: no choice of a node.
GPU = section(
    "GPUs of all machines",
    chart(
        "GPU use",
        "Share of the time in which the GPU computed.",
        "percent",
        Query("max by (instance, gpu) (DCGM_FI_DEV_GPU_UTIL)", "{{instance}} {{gpu}}"),
        maximum=100,
        needs="gpu",
    ),
    chart(
        "GPU memory",
        "Memory of the GPU that is used.",
        "bytes",
        Query("max by (instance, gpu) (DCGM_FI_DEV_FB_USED) * 1048576", "{{instance}} {{gpu}}"),
        needs="gpu",
    ),
    chart(
        "GPU temperature",
        "A hot GPU slows down by itself.",
        "celsius",
        Query("max by (instance, gpu) (DCGM_FI_DEV_GPU_TEMP)", "{{instance}} {{gpu}}"),
        thresholds=(Threshold(85, "orange"),),
        needs="gpu",
    ),
)

WATCHING = section(
    "Scraping",
    chart(
        "Targets",
        "Whether Prometheus can scrape each job; the worst target counts.",
        "short",
        Query("min by (job) (up)", "{{job}}"),
        kind="statetimeline",
        width=24,
        thresholds=(Threshold(1, "green"),),
        base="red",
        texts=("silent", "answers"),
    ),
)

SYSTEM = Dashboard(
    name="system",
    title="System",
    description="The machines below the service: processors, memory, disks, network, GPUs.",
    variables=("node",),
    sections=(NOW, MACHINE, GPU, WATCHING),
)
