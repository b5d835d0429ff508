"""Pictures and pages for people: heat maps, contact sheets, search reports and evaluation pages."""
