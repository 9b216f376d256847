"""When and where: the plan, its application, dispatch and observation of jobs."""
