from django.apps import AppConfig


class EngineConfig(AppConfig):
    name = "engine"

    def ready(self) -> None:
        from engine.actions.retention import unmade_partitions
        from engine.clock.schedules import Entry, register_schedule
        from engine.inbox.receipts import Receipts
        from engine.processor.registry import register_worker
        from engine.watch.checks import register_check

        register_worker("events", Receipts())
        register_check("partition", unmade_partitions)
        register_schedule(Entry("new tokens", "engine.actions.tokens.check_new_tokens"))
        register_schedule(Entry("partitions", "engine.store.partitions.make_partitions", minutes=24 * 60))
        register_schedule(Entry("purge", "engine.actions.retention.purge_by_schedule", minutes=60))
