"""The master: passes facts and requests to the core, carries out its actions, serves the endpoints, runs hooks.

It holds no state that cannot be rebuilt. A cold start, the successor of a master that died and an upgraded master run
the same code: send ``Hello``, restore the checkpoint, pass the guardian's snapshot to the core, continue.

``main``                     the entry point; ``python_api``: ``cservice.start`` and others
``loop``                     the control loop; ``interfaces``: the master as its parts use it
``guardian_client``          orders to the guardian, and facts from it
``effects``                  carries out the actions of the core; ``launch_plan``: a release as an order to the guardian
``endpoints``                the HTTP endpoints; ``service_api``: the commands of clients
``event_log``                events: numbered, written to the log, passed on; ``state_file``: what outlives the service
``config_reload``            reload of the configuration
``background_jobs``          long-running jobs of the core; ``release_tests``: tests of a release
``process_stats``            memory, CPU and connections of the workers; ``heartbeats``; ``health_checks``
``recycle_schedule``         times of day at which workers are replaced
``worker_messages``          messages from and to workers; ``internal_commands``: the commands that they give
``hooks``                    event handlers; ``custom_command_registry``, ``command_context``: custom commands;
                             ``user_code``: runs both, with a time limit
"""
